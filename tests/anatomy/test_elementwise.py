"""Activations that an author wrote are known by what they do, whatever their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgery.anatomy.layer_kinds import is_activation_layer


class Saving(torch.autograd.Function):
    """The Swish that keeps its input only, as EfficientNets have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()


class Hard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.clip(x + 3) / 6


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Bent(Lambda):
    def __init__(self) -> None:
        super().__init__(F.relu)
        self.slope = nn.Parameter(torch.ones(3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x * self.slope)


def simam(x: Tensor) -> Tensor:
    apart = (x - x.mean((2, 3), keepdim=True)) ** 2
    return x * (apart / (apart.mean((2, 3), keepdim=True) + 1e-4)).sigmoid()


@pytest.mark.parametrize(
    "module",
    [Lambda(Saving.apply), Hard(), Lambda(F.relu), Lambda(lambda x: x * F.softplus(x).tanh()), nn.ReLU(), nn.PReLU()],
)
def test_bends_each_number_by_itself(module: nn.Module) -> None:
    assert is_activation_layer(module)


@pytest.mark.parametrize(
    "module",
    [
        Lambda(simam),
        Lambda(lambda x: x),
        Lambda(lambda x: 2 * x + 1),
        Lambda(lambda x: x.softmax(1)),
        Lambda(lambda x: F.avg_pool2d(x, 3, 1, 1)),
        Lambda(lambda x: F.dropout(x, 0.5, training=True)),
        Lambda(lambda x: x.mean((2, 3))),
        Bent(),
        nn.Identity(),
        nn.Sequential(),
    ],
)
def test_others_are_no_activations(module: nn.Module) -> None:
    assert not is_activation_layer(module)


def test_trying_out_leaves_no_trace() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            self.last = x
            return x.relu() + torch.rand(()) * 0

    state = torch.get_rng_state()
    module = Counting()
    assert is_activation_layer(module)
    assert not hasattr(module, "last")
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
