"""A host that cannot be traced says where, and hides nothing of what lies in it."""

from __future__ import annotations

import torch
from networks import (
    OneBlock,
    Residual,
)
from torch import Tensor, nn

import sesurgery


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y if float(y.sum()) > 0 else -y


def test_untraceable_host_says_where_and_hides_nothing() -> None:
    seen = sesurgery.inspect(OneBlock(Untraceable), example_input=torch.randn(1, 3, 8, 8))
    (one,) = seen.untraced
    assert (one.path, one.cls) == ("block", "Untraceable")
    assert "test_refusals.py" in one.reason
    assert "y.sum()" in one.reason
    plan = sesurgery.plan(OneBlock(Untraceable), "standard", example_input=torch.randn(1, 3, 8, 8))
    assert [edit.path for edit in plan.edits] == ["block.block.se"]
