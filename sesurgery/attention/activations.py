"""Gates that are exactly 1 at 0, so that a last layer of zeros makes a node the identity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from timm.layers import get_act_layer
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgery.attention.options import ACTIVATIONS
from sesurgery.errors import Unfit


class DoubleSigmoid(nn.Module):
    """``2 * sigmoid(x)``: 1 at 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(x)


class DoubleHardSigmoid(nn.Module):
    """``2 * hard_sigmoid(x)``: 1 at 0, in every precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 3


class OnePlusTanh(nn.Module):
    """``1 + tanh(x)``: 1 at 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 + torch.tanh(x)


class ReluOfOnePlus(nn.Module):
    """``relu(1 + x)``: 1 at 0, with a slope there."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(1 + x)


_IDENTITY_GATES: dict[str, type[nn.Module]] = {
    "sigmoid": DoubleSigmoid,
    "hard_sigmoid": DoubleHardSigmoid,
    "tanh": OnePlusTanh,
    "relu": ReluOfOnePlus,
}


def gate_class(gate: str, init: str = "paper") -> type[nn.Module]:
    """The class of a gate: timm's, or for ``init: identity`` the one that is 1 at 0."""
    return _IDENTITY_GATES[gate] if init == "identity" else get_act_layer(gate)  # type: ignore[return-value]


def act_class(act: str, slope: float | None = None) -> Callable[..., nn.Module]:
    """The class of an activation by timm's name; ``slope`` is leaky_relu's.

    Raises:
        Unfit: for ``inherit``, which only a plan can resolve.
    """
    if act == "inherit":
        raise Unfit("act: inherit, but there is no activation here to inherit; name one")
    if slope is not None:
        return partial(nn.LeakyReLU, negative_slope=slope)
    return get_act_layer(act)  # type: ignore[return-value]


def new_act(act: Callable[..., nn.Module]) -> nn.Module:
    """An activation of that class, in place where the class can."""
    try:
        return act(inplace=True)
    except TypeError:
        return act()


def zero(layer: nn.Module) -> None:
    """Set weight and bias of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def activation_name(module: nn.Module) -> str | None:
    """The name under which an activation layer can be asked for again (``act=...``), or None."""
    for name in ACTIVATIONS:
        kind = get_act_layer(name)
        if type(module) is kind:
            return name
    return None
