"""Hosts with several ways in: a second forward, and a forward of parts."""

from __future__ import annotations

import torch
from networks import Residual, lively
from torch import Tensor, nn

import sesurgery


class Tapped(nn.Module):
    """A residual block with a second forward that also gives what is inside, as timm's Xception has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stack = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def _sum(self, y: Tensor, x: Tensor) -> Tensor:
        return y + x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self._sum(self.stack(x), x)

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        inner = self.stack[1](self.stack[0](x))
        return self._sum(self.stack[2](inner), x), inner


def test_a_node_that_can_go_behind_a_layer_is_seen_by_every_forward() -> None:
    surgery = sesurgery.apply(lively(Tapped()), "standard", example_input=torch.randn(1, 3, 8, 8))
    assert [(edit.path, edit.route) for edit in surgery.plan.edits] == [("stack.2.se", "behind")]
    x = torch.randn(2, 3, 8, 8)
    model = surgery.model.eval()
    assert torch.equal(model(x), model.forward_with_tap(x)[0])
    assert surgery.notes == ()


def test_a_node_that_another_forward_does_not_see_is_told_of() -> None:
    surgery = sesurgery.apply(lively(Tapped()), "post", example_input=torch.randn(1, 3, 8, 8))
    assert [(edit.path, edit.route) for edit in surgery.plan.edits] == [("se", "graph")]
    assert surgery.notes == ("se: Tapped.forward_with_tap called on its own runs these layers without the node",)


def test_a_part_of_forward_is_no_way_in_of_its_own() -> None:
    class Split(Residual):
        def _forward_impl(self, x: Tensor) -> Tensor:
            return super().forward(x)

        def forward(self, x: Tensor) -> Tensor:
            return self._forward_impl(x)

    surgery = sesurgery.apply(lively(Split(8)), "standard", example_input=torch.randn(1, 8, 8, 8))
    assert [edit.route for edit in surgery.plan.edits] == ["graph"]
    assert surgery.notes == ()
