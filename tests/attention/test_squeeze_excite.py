"""Squeeze-and-excitation and gather-excite: every layout, squeeze, gate and activation."""

from __future__ import annotations

import pickle

import pytest
import torch
from ports import MAP, PORTS, check_all_gradients, sample
from torch import nn

from sesurgery.attention import Port, build, check_options
from sesurgery.attention.options import ACTIVATIONS, SQUEEZES
from sesurgery.errors import Unfit


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
