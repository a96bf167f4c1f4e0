"""Forwards that do more than tensor operations: operated, they are equal to the original wherever one looks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import check_same
from networks import lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import sesurgery

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


# What depends on where gradients come from.


class AskingForGradients(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(y.square().sum(), y, create_graph=True)
        return x + slope


class GoingBackwards(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = self.branch(x).detach().requires_grad_()
            y.square().sum().backward()
        return x + y.grad  # type: ignore[operator]


class MakingALeaf(Block):
    """Behind a layer ``y`` would be no leaf, and the assignment would raise."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x).detach()
        y.requires_grad = True
        return x + y


class Hooking(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y.register_hook(lambda slope: slope * 0.5)
        return x + y


# What no mode sees through.


class Round(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, steps: float) -> Tensor:
        return (x * steps).round() / steps

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return slopes[0], None


class ScaledInside(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + Round.apply(self.branch(x), 4.0)


class SampleBySample(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.vmap(lambda sample: self.conv(sample[None])[0])(x)


class Attending(Block):
    def forward(self, x: Tensor) -> Tensor:
        tokens = self.branch(x).flatten(2).transpose(1, 2)
        with sdpa_kernel(SDPBackend.MATH):
            y = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return x + y.transpose(1, 2).reshape(x.shape)


BLOCKS: tuple[type[Block], ...] = (
    AskingForGradients,
    GoingBackwards,
    MakingALeaf,
    Hooking,
    ScaledInside,
    SampleBySample,
    Attending,
)


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_a_block_is_operated_and_equal(kind: type[Block]) -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kind(), kind()))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    check_same(model, surgery.model, IMAGE)


# What a forward keeps outside of its module.


class Counting(Block):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return x + self.branch(x)

    @classmethod
    def reset(cls) -> None:
        cls.calls = 0


def test_a_class_attribute_is_that_of_the_authors_class() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Counting(), Counting()))
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert Counting.calls == 0
    operated(IMAGE)
    model(IMAGE)
    assert Counting.calls == type(operated[1]).calls == 4
    operated[1].reset()
    assert Counting.calls == 0


CALLS = 0
SHAPES: list[torch.Size] = []


def _told(x: Tensor) -> None:
    global CALLS
    CALLS += 1
    SHAPES.append(x.shape)


class Telling(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        _told(y)
        return x + y


def test_planning_leaves_what_a_helper_counts_and_collects() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Telling(), Telling()))
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert (CALLS, SHAPES) == (0, [])
    operated(IMAGE)
    assert (CALLS, len(SHAPES)) == (2, 2)
