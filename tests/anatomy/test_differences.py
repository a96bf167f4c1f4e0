"""A residual branch may be subtracted; other differences are no sums."""

from __future__ import annotations

import pytest
import torch
from networks import OneBlock
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import NothingMatchedError

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 1, 1)

    def branch(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


class Denoise(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x - self.branch(x)


class InPlace(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x -= self.branch(x)
        return x


class Scaled(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub(self.branch(x), alpha=0.5)


class Function(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sub(x, self.branch(x))


class Mixer(Parts):
    """PoolFormer's mixer: nothing that learns."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x


class Turned(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) - x


class Contrast(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x) - self.two(x)).abs()


@pytest.mark.parametrize("kind", [Denoise, InPlace, Scaled, Function])
def test_the_branch_that_is_subtracted_is_gated(kind: type[Parts]) -> None:
    model = OneBlock(kind)
    surgery = sesurgery.apply(model, "standard", init="identity", example_input=IMAGE)
    assert [edit.path for edit in surgery.plan.edits] == ["block.se"]
    assert (
        "self.se(self.branch(x))" in surgery.plan.diffs[0].after or "self.se(self.two(" in surgery.plan.diffs[0].after
    )
    assert sesurgery.verify(model, surgery.model)


@pytest.mark.parametrize("kind", [Mixer, Turned, Contrast])
def test_other_differences_are_none(kind: type[Parts]) -> None:
    with pytest.raises(NothingMatchedError):
        sesurgery.plan(OneBlock(kind), "standard", example_input=IMAGE)


class Weighed(Parts):
    """EfficientViM's steps: a weight says how far to go from the input to what a branch makes of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * (self.branch(x) - x)


def test_a_step_towards_a_branch_is_one_sum() -> None:
    plan = sesurgery.plan(OneBlock(Weighed), "standard", example_input=IMAGE)
    assert [edit.path for edit in plan.edits] == ["block.se"]
