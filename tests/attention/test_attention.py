"""The registry of nodes: what fits where, native keys and numbers, identity starts, options, one's own nodes."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from registries import restored
from timm.layers import SEModule, create_attn
from timm.layers import make_divisible as timm_make_divisible
from timm.layers.create_act import _ACT_LAYER_DEFAULT
from timm.models._efficientnet_blocks import SqueezeExcite as MbConvSE
from torch import nn
from torchvision.models import efficientnet_b0, mobilenet_v3_small, shufflenet_v2_x1_0
from torchvision.ops.misc import SqueezeExcitation

import sesurgery.attention as attn
from sesurgery.attention import LAYOUTS, Port, attention, build, check_options, refusal
from sesurgery.attention.options import ACTIVATIONS, GATES, SQUEEZES
from sesurgery.errors import InputError, Unfit, UnknownNameError
from sesurgery.models.zoo import create, resolve

PORTS = {
    "nchw": Port((2, 16, 8, 8), 1),
    "nhwc": Port((2, 8, 8, 16), 3),
    "nlc": Port((2, 9, 16), 2),
    "ncl": Port((2, 16, 9), 1),
    "ncthw": Port((2, 16, 3, 4, 4), 1),
    "nthwc": Port((2, 3, 4, 4, 16), 4),
    "nc": Port((2, 16), 1),
}
FITTING = [(name, layout) for name in attn.names() for layout in PORTS if layout in attn.entry(name).layouts]
UNFITTING = [(name, layout) for name in attn.names() for layout in PORTS if layout not in attn.entry(name).layouts]
TIMM = [name for name in attn.names() if not name.startswith("se_") and name not in {"scse", "ge"}]
MAP = PORTS["nchw"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads, by far where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scratch() -> Iterator[None]:
    """A registry that is as it was afterwards."""
    with restored():
        yield


def sample(port: Port) -> torch.Tensor:
    return torch.randn(port.shape, generator=torch.Generator().manual_seed(0))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_all_gradients(node: nn.Module, port: Port) -> None:
    x = sample(port).requires_grad_()
    (node(x) * sample(port)).sum().backward()
    assert x.grad is not None
    assert [name for name, p in node.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("name", "layout"), FITTING)
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_it_keeps_the_shape_and_trains(name: str, layout: str, init: str) -> None:
    port = PORTS[layout]
    assert refusal(name, port, {"init": init}) is None
    node = build(name, port, {"init": init})
    assert all(parameter.requires_grad for parameter in node.parameters())
    assert count(node) > 0
    for train in (True, False):
        assert node.train(train)(sample(port)).shape == port.shape
    check_all_gradients(node.train(), port)


@pytest.mark.parametrize(("name", "layout"), FITTING)
def test_identity_start_is_exact_and_leaves_zero_when_trained(name: str, layout: str) -> None:
    port = PORTS[layout]
    node = build(name, port, {"init": "identity"})
    x = sample(port)
    for train in (True, False):
        assert torch.equal(node.train(train)(x), x)
    optimizer = torch.optim.SGD(node.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (node.train()(x) - 2 * x.flip(0)).square().mean().backward()
        optimizer.step()
    assert not torch.equal(node.eval()(x), x)


@pytest.mark.parametrize(("name", "layout"), UNFITTING)
def test_it_refuses_layouts_it_has_no_meaning_in(name: str, layout: str) -> None:
    reason = refusal(name, PORTS[layout], {})
    assert reason is not None
    assert reason.startswith(f"{name} works on (N, C, ")
    assert reason.endswith(f"this site is {LAYOUTS[layout]}")
    with pytest.raises(Unfit, match="this site is"):
        build(name, PORTS[layout], {})


@pytest.mark.parametrize("name", attn.names())
def test_it_survives_copy_pickle_export_and_meta(name: str) -> None:
    for init in ("paper", "identity"):
        node = build(name, MAP, {"init": init}).eval()
        x = sample(MAP)
        expected = node(x)
        file = io.BytesIO()
        torch.save(node, file)
        file.seek(0)
        twins = [copy.deepcopy(node), pickle.loads(pickle.dumps(node)), torch.load(file, weights_only=False)]
        for twin in twins:
            assert torch.equal(twin(x), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(node, (x,)).module()
        torch.testing.assert_close(exported(x), expected)
        with torch.device("meta"):
            ghost = build(name, MAP, {"init": init})
        assert all(tensor.is_meta for tensor in ghost.state_dict().values())
        assert shapes(ghost) == shapes(node)


@pytest.mark.parametrize("name", TIMM)
def test_timm_nodes_are_timms_own(name: str) -> None:
    extra: dict[str, Any] = {"bottleneck": {"feat_size": (8, 8)}, "bat": {"block_size": 8}}.get(name, {})
    port = Port((2, 64, 8, 8), 1)
    native = create_attn(name, 64, **extra).eval()
    ours = build(name, port, {}).eval()
    assert type(ours) is type(native)
    ours.load_state_dict(native.state_dict(), strict=True)
    assert torch.equal(ours(sample(port)), native(sample(port)))


@pytest.mark.parametrize("channels", [256, 320, 512, 1000, 1024, 2048])
def test_se_has_the_width_of_timms(channels: int) -> None:
    port = Port((1, channels, 2, 2), 1)
    with torch.device("meta"):
        for reduction in [*range(1, 33), 2.5, 7.3, 64, 4096]:
            native = SEModule(channels, rd_ratio=1 / reduction)
            for squeeze in ("avg", "max"):
                ours = build("se", port, {"reduction": reduction, "squeeze": squeeze})
                assert shapes(ours) == shapes(native)
            assert attn.reduced_channels("se", channels, {"reduction": reduction}) == native.fc1.out_channels
    width = attn.reduced_channels("se", channels, {})
    assert width is not None
    assert count(build("se", port, {})) == 2 * channels * width + channels + width


def test_make_divisible_is_timms() -> None:
    for value in [0.3, 1, 2.5, 4.5, 11.99, 12, 20.5, 100, 1234.5]:
        for divisor in (1, 4, 8):
            for limit in (0.0, 0.9):
                expected = timm_make_divisible(value, divisor, round_limit=limit)
                assert attn.make_divisible(value, divisor, limit) == expected


@pytest.mark.parametrize(
    ("options", "block_input", "width"),
    [
        ({"reduction": 4}, 96, 24),
        ({"reduction": 4, "reduce_from": "block input"}, 24, 6),
        ({"reduction": 4, "reduce_from": "block input", "rd_divisor": 8}, 24, 8),
        ({"reduction": 4, "reduce_from": "block input"}, 1, 1),
        ({"reduction": 4, "rd_channels": 5}, 24, 5),
    ],
)
def test_reduced_channels(options: dict[str, Any], block_input: int, width: int) -> None:
    assert attn.reduced_channels("se", block_input, options) == width
    assert attn.reduced_channels("eca", block_input, options) is None


@pytest.mark.parametrize("channels", [16, 24, 40, 72, 116, 960])
@pytest.mark.parametrize("reduction", [2, 3, 4, 16])
def test_se_mbconv_is_timms_efficientnet_se(channels: int, reduction: int) -> None:
    port = Port((2, channels, 4, 4), 1)
    native = MbConvSE(channels, rd_ratio=1 / reduction, act_layer=nn.SiLU, gate_layer="hard_sigmoid").eval()
    options = {"reduction": reduction, "act": "silu", "gate": "hard_sigmoid"}
    ours = build("se_mbconv", port, options).eval()
    assert type(ours) is MbConvSE
    ours.load_state_dict(native.state_dict(), strict=True)
    assert torch.equal(ours(sample(port)), native(sample(port)))
    assert [type(m) for m in ours.modules()] == [type(m) for m in native.modules()]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (mobilenet_v3_small, {"gate": "hard_sigmoid"}),
        (efficientnet_b0, {"act": "silu"}),
    ],
)
def test_se_torchvision_is_torchvisions(model: Any, options: dict[str, Any]) -> None:
    natives = [m for m in model().modules() if isinstance(m, SqueezeExcitation)]
    assert natives
    for native in natives:
        channels = native.fc1.in_channels
        port = Port((2, channels, 4, 4), 1)
        width = {} if "gate" in options else {"rd_channels": native.fc1.out_channels}
        ours = build("se_torchvision", port, {**options, **width}).eval()
        assert [type(m) for m in ours.modules()] == [type(m) for m in native.modules()]
        ours.load_state_dict(native.state_dict(), strict=True)
        assert torch.equal(ours(sample(port)), native.eval()(sample(port)))


def test_se_linear_gives_the_published_shufflenet_count() -> None:
    with torch.device("meta"):
        base = count(shufflenet_v2_x1_0(num_classes=10))
        added = [count(build("se_linear", Port((1, c, 7, 7), 1), {"reduction": 4})) for c in (58, 116, 232)]
    assert base + 4 * sum(added) == 1406938


@pytest.mark.parametrize(
    ("native", "kind", "name", "options"),
    [
        ("seresnet18", "se", "se", {}),
        ("seresnext26ts", "attn", "se", {}),
        ("ecaresnet26t", "se", "eca", {}),
        ("gcresnext26ts", "attn", "gca", {}),
        ("bat_resnext26ts", "attn", "bat", {"block_size": 8}),
        ("regnety_002", "se", "se", {"rd_channels": 6}),
        ("ese_vovnet19b_dw", "attn", "ese", {}),
    ],
)
def test_nodes_have_the_keys_of_native_models(native: str, kind: str, name: str, options: dict[str, Any]) -> None:
    model = create(resolve(native), device="meta")  # old torch cannot run each constructor with all of it on meta
    with torch.device("meta"):
        found = [
            child
            for path, child in model.named_modules()
            if path.split(".")[-1] == kind and not isinstance(child, nn.Identity)
        ]
        assert found
        for node in found if "rd_channels" not in options else found[1:2]:
            ours = build(name, Port((1, _channels(node, name), 8, 8), 1), options)
            assert type(ours) is type(node)
            assert shapes(ours) == shapes(node)


def _channels(node: nn.Module, name: str) -> int:
    if name == "eca":
        return {3: 64, 5: 256, 7: 2048}[node.conv.kernel_size[0]]  # type: ignore[union-attr,index]
    first = next(m for m in node.modules() if isinstance(m, nn.Conv2d))
    return first.in_channels


def test_gca_costs_what_gcresnext26ts_pays_for_it() -> None:
    with torch.device("meta"):
        plain, native = (count(timm.create_model(name)) for name in ("resnext26ts", "gcresnext26ts"))
        ports = [Port((1, c, 8, 8), 1) for c in (64, 128, 256, 512) for _ in range(2)]
        assert native - plain == 178648 == sum(count(build("gca", port, {})) for port in ports)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", ["se", "se_mbconv", "se_torchvision", "se_linear", "ese"])
def test_every_gate_starts_as_identity_with_the_same_keys(name: str, gate: str) -> None:
    options = {"gate": gate} if name == "ese" else {"gate": gate, "act": "silu"}  # never dead, as a ReLU may be
    node = build(name, MAP, {**options, "init": "identity"})
    assert torch.equal(node(sample(MAP)), sample(MAP))
    assert shapes(node) == shapes(build(name, MAP, options))
    check_all_gradients(node, MAP)
    last = list(node.parameters())[-2:]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in last)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_identity_is_exact_in_other_precisions(gate: str, dtype: torch.dtype) -> None:
    node = build("se", MAP, {"gate": gate, "init": "identity"}).to(dtype)
    x = sample(MAP).to(dtype)
    assert torch.equal(node(x), x)


@pytest.mark.parametrize(("name", "layout"), FITTING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_is_exact_under_autocast_dtype_included(name: str, layout: str, dtype: torch.dtype) -> None:
    """Weights are float32 there; what a layer is given is float32 or, behind a convolution, bfloat16."""
    x = sample(PORTS[layout]).to(dtype)
    node = build(name, PORTS[layout], {"init": "identity"})
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            output = node.train(training)(x.clone())
        assert output.dtype == dtype
        assert torch.equal(output, x)


@pytest.mark.parametrize("layout", PORTS)
@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("bias", [True, False])
def test_se_in_every_layout_squeeze_and_bias(layout: str, squeeze: str, bias: bool) -> None:
    port = PORTS[layout]
    options = {"squeeze": squeeze, "bias": bias, "reduction": 2}
    node = build("se", port, options)
    assert [key for key, _ in node.named_parameters()] == [
        f"fc{i}.{part}" for i in (1, 2) for part in (["weight", "bias"] if bias else ["weight"])
    ]
    check_all_gradients(node, port)
    born = build("se", port, {**options, "init": "identity"})
    assert torch.equal(born(sample(port)), sample(port))
    pickle.loads(pickle.dumps(born))


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_layouts_agree_with_each_other(squeeze: str) -> None:
    options = {"squeeze": squeeze, "reduction": 2}
    reference = build("se", MAP, options)
    x = sample(MAP)
    others = [
        (Port((2, 8, 8, 16), 3), x.permute(0, 2, 3, 1)),
        (Port((2, 64, 16), 2), x.flatten(2).transpose(1, 2)),
        (Port((2, 16, 64), 1), x.flatten(2)),
        (Port((2, 16, 2, 4, 8), 1), x.view(2, 16, 2, 4, 8)),
    ]
    for port, view in others:
        node = build("se", port, options)
        weights = {k: v.reshape(node.state_dict()[k].shape) for k, v in reference.state_dict().items()}
        node.load_state_dict(weights)
        out = node(view)
        back = out.movedim(port.axis, 1).reshape(x.shape)
        torch.testing.assert_close(back, reference(x))


def test_se_by_hand() -> None:
    x = sample(MAP)
    node = build("se", MAP, {"squeeze": "max", "gate": "tanh", "act": "silu"})
    state = {key: value.flatten(1) if value.ndim > 1 else value for key, value in node.state_dict().items()}
    hidden = nn.functional.silu(x.amax((2, 3)) @ state["fc1.weight"].T + state["fc1.bias"])
    scale = torch.tanh(hidden @ state["fc2.weight"].T + state["fc2.bias"])
    torch.testing.assert_close(node(x), x * scale[:, :, None, None])


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_of_timm(act: str) -> None:
    for name in ("se", "se_mbconv", "se_torchvision", "se_linear", "cbam", "sk", "coord", "ge", "gc", "bat", "splat"):
        node = build(name, MAP, {"act": act})
        check_all_gradients(node, MAP)


def test_the_activations_are_all_that_timm_has() -> None:
    assert set(ACTIVATIONS) == set(_ACT_LAYER_DEFAULT)


def test_act_slope() -> None:
    node = build("se", MAP, {"act": "leaky_relu", "act_slope": 0.1})
    assert isinstance(node.act, nn.LeakyReLU)
    assert node.act.negative_slope == 0.1
    assert check_options("se", {"act": "inherit", "act_slope": 0.1}) == []
    assert "set act: leaky_relu" in check_options("se", {"act": "relu", "act_slope": 0.1})[0]
    with pytest.raises(Unfit, match="inherit"):
        build("se", MAP, {"act": "inherit"})


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
@pytest.mark.parametrize("extra_params", [True, False])
def test_gather_excite_at_every_extent(extent: int, extra_params: bool) -> None:
    node = build("ge", MAP, {"extent": extent, "extra_params": extra_params})
    check_all_gradients(node, MAP)
    assert any("gather" in key for key in node.state_dict()) is extra_params


@pytest.mark.parametrize(
    ("name", "port", "options", "reason"),
    [
        ("cbam", Port((2, 16, 3, 3), 1), {}, "kernel of 7 is too large for the 3 x 3 map"),
        ("sk", Port((2, 16, 2, 2), 1), {}, "kernel of 5"),
        ("sk", Port((2, 15, 8, 8), 1), {}, "split_input: false"),
        ("sk", Port((2, 16, 8, 8), 1), {"groups": 3}, "groups 3 does not divide the 8 channels"),
        ("splat", Port((2, 15, 8, 8), 1), {}, "groups \\* radix = 2 does not divide the 15 channels"),
        ("lambda", Port((2, 18, 8, 8), 1), {}, "num_heads 4 does not divide the 18 channels"),
        ("halo", Port((2, 16, 9, 9), 1), {}, "blocks of 8 or 7 do not tile the 9 x 9 map"),
        ("halo", Port((2, 16, 8, 8), 1), {"block_size": 3}, "block_size 3 does not tile"),
        ("bat", Port((2, 16, 9, 9), 1), {}, "do not tile the 9 x 9 map"),
        ("bat", Port((2, 16, 8, 8), 1), {"groups": 3}, "groups 3 does not divide the 8 channels"),
        ("nl", Port((2, 16, 112, 112), 1), {}, "12544 x 12544 matrix"),
        ("bottleneck", Port((2, 16, 112, 112), 1), {}, "at most 4096 positions"),
        ("eca", Port((2, 4, 8, 8), 1), {"kernel_size": 9}, "too large for 4 channels"),
        ("se", Port((2, 2048, 8, 8), 1), {"reduction": 1 / 64}, "gives 131072 channels; reduce more"),
        ("gc", Port((2, 2048, 8, 8), 1), {"reduction": 1 / 64}, "gives 131072 channels; reduce more"),
        ("ge", Port((2, 16, 128, 128), 1), {"extra_params": True}, "kernel as large as the 128 x 128 map"),
        ("ge", MAP, {"extra_params": True, "squeeze": "avg+max"}, "gathering is learned"),
        ("se", Port((2, 16, 0, 8), 1), {}, "map that is not empty"),
        ("se", Port((2, 8, 16, 8), 2), {}, "4-D with channels on axis 2"),
    ],
)
def test_refusals_say_why(name: str, port: Port, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        build(name, port, options)
    assert refusal(name, port, options)


def test_blocks_follow_the_map() -> None:
    for side in (7, 8, 14, 28, 56):
        port = Port((1, 16, side, side), 1)
        for name in ("halo", "bat"):
            assert build(name, port, {}).eval()(sample(port)).shape == port.shape


def test_a_refusal_draws_no_random_number() -> None:
    state = torch.get_rng_state()
    for name in attn.names():
        refusal(name, Port((1, 24, 16, 16), 1), {})
    assert torch.equal(torch.get_rng_state(), state)


BAD_OPTIONS = [
    ("se", {"reducton": 8}, 'did you mean "reduction"'),
    ("se", {"reduction": 0}, "0 is not a number from"),
    ("se", {"reduction": -4}, "-4 is not a number"),
    ("se", {"reduction": float("nan")}, "nan is not a number"),
    ("se", {"reduction": float("inf")}, "inf is not a number"),
    ("se", {"reduction": "16"}, '"16" is not a number'),
    ("se", {"reduction": True}, "True is not a number"),
    ("se", {"reduction": None}, "None is not a number"),
    ("se", {"rd_channels": 0}, "not a whole number from 1"),
    ("se", {"rd_channels": 2.5}, "2.5 is not a whole number"),
    ("se", {"rd_channels": 10**9}, "not a whole number from 1 to 65536"),
    ("se", {"rd_channels": 10**9999}, "more than 60 digits"),
    ("se", {"rd_divisor": 0}, "not a whole number from 1"),
    ("se", {"gate": "sigmod"}, 'did you mean "sigmoid"'),
    ("se", {"gate": ["sigmoid"]}, "expected"),
    ("se", {"squeeze": "average"}, 'did you mean "avg"'),
    ("se", {"act": "leeky_relu"}, 'did you mean "leaky_relu"'),
    ("se", {"act": 7}, "7 is not known"),
    ("se", {"init": "zero"}, 'expected "paper" or "identity"'),
    ("se", {"bias": 1}, "1 is neither true nor false"),
    ("se", {"reduce_from": "blok input"}, 'did you mean "block input"'),
    ("ese", {"squeeze": "max"}, "is not known"),
    ("eca", {"reduction": 4}, 'unknown option of module "eca"'),
    ("eca", {"reduce_from": "site"}, "unknown option"),
    ("cbam", {"kernel_size": 4}, "not an odd whole number"),
    ("sk", {"kernel_size": 4}, "is not known"),
    ("se", {3: 4}, "unknown option"),
]


@pytest.mark.parametrize(("name", "options", "text"), BAD_OPTIONS)
def test_bad_options_are_told_by_place(name: str, options: dict[Any, Any], text: str) -> None:
    (problem,) = check_options(name, options, where="rules[0].insert")
    assert problem.startswith(f"rules[0].insert.{next(iter(options))}: ")
    assert text in problem
    for function in (build, refusal):
        with pytest.raises(InputError):
            function(name, MAP, options)


def test_all_problems_at_once() -> None:
    assert len(check_options("se", {"reducton": 8, "gate": "x", "bias": "no"})) == 3
    nothing = {"rd_channels": None, "act_slope": None, "init": None}
    assert check_options("se", {"reduction": 2.5, "reduce_from": "block input", **nothing}) == []
    assert refusal("se", MAP, {"reduction": 2.5, "reduce_from": "block input", **nothing}) is None
    assert 'did you mean "cbam"' in check_options("cbma", {}, where="rules[1]")[0]


def test_names_are_found_in_any_spelling() -> None:
    assert attn.canonical("SE-MBConv") == "se_mbconv"
    assert attn.entry("Se").name == "se"
    with pytest.raises(UnknownNameError) as caught:
        attn.entry("ecaa")
    assert caught.value.kind == "module"
    assert "eca" in caught.value.nearest
    with pytest.raises(UnknownNameError):
        build("no such thing", MAP, {})


def test_every_entry_is_described_and_has_a_child_name_that_is_python() -> None:
    for name in attn.names():
        found = attn.entry(name)
        assert found.summary
        assert found.source
        assert check_options(name, found.defaults) == []
        assert set(found.defaults) <= found.options
        compile(f"self.{attn.child_name(name)}(x)", "forward", "eval")
    assert attn.child_name("se_mbconv") == "se"
    assert attn.child_name("lambda") == "lambda_attn"


def test_importing_the_registry_imports_no_torch() -> None:
    code = (
        "import sys, sesurgery.attention as a; a.names(); a.check_options('se', {'reduction': 8});"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("scratch")
def test_a_function_of_ones_own() -> None:
    @attention("my-node", summary="mine", layouts=("nchw", "nlc"))
    def make(port: Port, *, reduction: int = 4, bias: bool = True) -> nn.Module:
        return nn.Linear(port.channels, port.channels, bias=bias) if port.layout == "nlc" else nn.Identity()

    assert make(PORTS["nlc"]).in_features == 16
    assert attn.entry("My_Node").options == {"reduction", "bias"}
    assert build("my_node", PORTS["nlc"], {"bias": False}).bias is None
    born = build("my_node", PORTS["nlc"], {"init": "identity"})
    assert torch.equal(born(sample(PORTS["nlc"])), sample(PORTS["nlc"]))
    assert "(N, C, L)" in str(refusal("my_node", PORTS["ncl"], {}))
    assert 'did you mean "reduction"' in check_options("my-node", {"reducton": 2})[0]
    assert attn.child_name("my-node") == "my_node"


@pytest.mark.usefixtures("scratch")
def test_a_class_of_ones_own() -> None:
    @attention("gain")
    class Gain(nn.Module):
        """Scale every channel."""

        def __init__(self, channels: int, start: float = 1.0) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((channels, 1, 1), start))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    node = build("gain", MAP, {"start": 2.0})
    assert isinstance(node, Gain)
    assert torch.equal(node(sample(MAP)), 2 * sample(MAP))
    assert attn.entry("gain").summary == "Scale every channel."


@pytest.mark.usefixtures("scratch")
def test_what_ones_own_node_may_not_do() -> None:
    for name in ("SE", "", "a b", "1st", "x" * 99):
        with pytest.raises(InputError):
            attention(name)(lambda port: nn.Identity())
    with pytest.raises(InputError, match='unknown layout "nhcw"; did you mean "nhwc"'):
        attention("mine", layouts=("nhcw",))(lambda port: nn.Identity())
    attention("none")(lambda port: None)
    with pytest.raises(InputError, match="NoneType"):
        build("none", MAP, {})
    attention("pool")(lambda port: nn.AvgPool2d(2))
    assert "has to keep the shape" in str(refusal("pool", MAP, {}))
    attention("pool")(lambda port: nn.Conv2d(3, 3, 1))
    assert "pool cannot take (N, C, H, W)" in str(refusal("pool", MAP, {}))


def test_ports() -> None:
    assert {layout: port.layout for layout, port in PORTS.items()} == {layout: layout for layout in LAYOUTS}
    assert PORTS["nhwc"].spatial == (8, 8)
    assert PORTS["ncthw"].positions == 48
    assert PORTS["nc"].spatial == ()
    for axis in (-1, 0, 4):
        with pytest.raises(ValueError, match="channel axis"):
            Port((2, 3, 4, 5), axis)
