"""Every registered layer: where it fits, how it starts, what it survives."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from ports import MAP, PORTS, check_all_gradients, count, sample, shapes

import sesurgery.attention as attn
from sesurgery.attention import LAYOUTS, Port, build, refusal
from sesurgery.attention.construct import NEAR
from sesurgery.attention.options import GATES
from sesurgery.errors import Unfit

FITTING = [(name, layout) for name in attn.names() for layout in PORTS if layout in attn.entry(name).layouts]
UNFITTING = [(name, layout) for name in attn.names() for layout in PORTS if layout not in attn.entry(name).layouts]


@pytest.mark.parametrize(("name", "layout"), FITTING)
@pytest.mark.parametrize("init", ["paper", "near", "identity"])
def test_it_keeps_the_shape_and_trains(name: str, layout: str, init: str) -> None:
    port = PORTS[layout]
    assert refusal(name, port, {"init": init}) is None
    node = build(name, port, {"init": init})
    assert all(parameter.requires_grad for parameter in node.parameters())
    assert (count(node) > 0) is ((name, init) != ("simam", "paper"))
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


@pytest.mark.parametrize(("name", "layout"), FITTING)
def test_near_is_a_tenth_of_the_way_to_the_layer(name: str, layout: str) -> None:
    port = PORTS[layout]
    node = build(name, port, {"init": "near"}).eval()
    x = sample(port)
    torch.testing.assert_close(node(x) - x, NEAR * (node.node(x) - x))
    if "gate" in attn.entry(name).options:  # a sigmoid: what it multiplies by lies between 0 and 1
        assert ((node(x) - x).abs() <= NEAR * x.abs() * (1 + 1e-5) + 1e-7).all()


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


@pytest.mark.parametrize("name", ["cbam", "lcbam", "gam", "triplet"])
def test_padding_carries_a_kernel_that_is_larger_than_the_map(name: str) -> None:
    port = Port((2, 16, 3, 3), 1)
    assert build(name, port, {}).eval()(sample(port)).shape == port.shape


@pytest.mark.parametrize(
    ("name", "port", "options", "reason"),
    [
        ("ela", Port((2, 16, 3, 3), 1), {}, "kernel of 7 is too large for the 3 x 3 map"),
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
