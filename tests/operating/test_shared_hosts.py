"""Hosts that are mounted twice, and hosts with hooks."""

from __future__ import annotations

import torch
from networks import SIZE, Residual, lively, small_resnet
from torch import Tensor, nn

import sesurgery


class Twice(nn.Module):
    """One block mounted under two names and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = Residual(8)
        self.second = self.first
        self.third = Residual(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.third(self.second(self.first(x))).mean((2, 3))


def test_shared_host_is_edited_once_and_said_so() -> None:
    surgery = sesurgery.apply(lively(Twice()), "standard", example_input=torch.randn(1, 3, 8, 8))
    model = surgery.model
    assert [edit.path for edit in surgery.plan.edits] == ["first.se", "third.se"]
    notes = " ".join(surgery.plan.edits[0].notes)
    assert "mounted at first, second" in notes
    assert "called 2 times" in notes
    assert any("called 2 times" in note for note in surgery.notes)
    assert surgery.plan.edits[1].notes == ()
    assert model.first is model.second
    calls: list[int] = []
    model.first.se.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(1, 3, 8, 8))
    assert len(calls) == 2
    sesurgery.revert(model)
    assert type(model.first) is Residual


def test_hooks_stay_on_their_hosts() -> None:
    model = small_resnet()
    seen: list[str] = []
    model.layer1[0].register_forward_hook(lambda *_: seen.append("host"))
    model.layer1[0].conv1.register_forward_pre_hook(lambda *_: seen.append("child"))
    surgery = sesurgery.apply(model, "pre", inplace=True, input_size=SIZE)
    assert seen == []
    surgery.model(torch.randn(1, *SIZE))
    sesurgery.revert(model)
    model(torch.randn(1, *SIZE))
    assert seen == ["child", "host"] * 2
