"""Layers have the numbers and the keys of timm's, torchvision's and the papers'."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from ports import count, sample, shapes
from timm.layers import SEModule, create_attn
from timm.layers import make_divisible as timm_make_divisible
from timm.layers.create_act import _ACT_LAYER_DEFAULT
from timm.models._efficientnet_blocks import SqueezeExcite as MbConvSE
from torch import nn
from torchvision.models import efficientnet_b0, mobilenet_v3_small, shufflenet_v2_x1_0
from torchvision.ops.misc import SqueezeExcitation

import sesurgery.attention as attn
from sesurgery.attention import Port, build
from sesurgery.attention.options import ACTIVATIONS
from sesurgery.models.zoo import create, resolve

NOT_IN_TIMM = {"scse", "ge", "mhsa", "simam", "ema", "gam", "shuffle", "skconv", "triplet"}
TIMM = [name for name in attn.names() if not name.startswith("se_") and name not in NOT_IN_TIMM]


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


def test_the_activations_are_all_that_timm_has() -> None:
    assert set(ACTIVATIONS) == set(_ACT_LAYER_DEFAULT)
