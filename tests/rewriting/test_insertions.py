"""Edited forwards, read as text and run: before, after, and what stays alive."""

from __future__ import annotations

import inspect
import os
import traceback
from typing import Any

import networks
import pytest
import torch
from checks import check_same
from networks import Nested, OneBlock, Parallel, Parts, Projected, Scaled, Stacked
from torch import Tensor, nn

import sesurgery
from sesurgery.rewriting.trial import StandIn
from sesurgery.testing import assert_forward

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rule(at: str, **layer: Any) -> dict[str, Any]:
    return {"name": "test", "rules": [{"insert": {"module": "se", "rd_channels": 2, **layer}, "at": at}]}


def diff(block: type[nn.Module], at: str) -> tuple[str, str]:
    (change,) = sesurgery.plan(OneBlock(block), rule(at), example_input=IMAGE).diffs
    assert change.cls == block.__name__
    assert change.paths == ("block",)
    return change.before, change.after


class Simple(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv1(x)) + x)


BEFORE = """
def forward(self, x: Tensor) -> Tensor:
    return torch.relu(self.norm(self.conv1(x)) + x)
"""
AFTER = {
    "before residual add": "torch.relu(self.se(self.norm(self.conv1(x))) + x)",
    "start of residual branch": "torch.relu(self.norm(self.conv1(self.se(x))) + x)",
    "on identity branch": "torch.relu(self.norm(self.conv1(x)) + self.se(x))",
    "after residual add": "self.se(torch.relu(self.norm(self.conv1(x)) + x))",
}


@pytest.mark.parametrize("at", AFTER)
def test_forward_before_and_after(at: str) -> None:
    after = BEFORE.replace("torch.relu(self.norm(self.conv1(x)) + x)", AFTER[at])
    plan = assert_forward(OneBlock(Simple), rule(at), BEFORE, after, example_input=IMAGE)
    assert [(diff.cls, diff.paths) for diff in plan.diffs] == [("Simple", ("block",))]
    first = Simple.forward.__code__.co_firstlineno
    assert [(os.path.basename(diff.file), diff.line) for diff in plan.diffs] == [(os.path.basename(__file__), first)]


def test_projection_is_left_of_the_layer_on_the_identity() -> None:
    before, after = diff(Projected, "on identity branch")
    assert "return self.norm(self.project(x)) + self.branch(x)" in before
    assert "return self.se(self.norm(self.project(x))) + self.branch(x)" in after


def test_scalars_dropout_and_layer_scale_stay_behind_the_layer() -> None:
    """The end of the branch is the last layer, which a helper method calls: that method is what changes."""
    before, after = diff(Scaled, "before residual add")
    assert "def branch(self, x: Tensor)" in before
    assert "return self.se(self.conv2(torch.relu(self.conv1(x))))" in after


def test_stacked_sum() -> None:
    _, after = diff(Stacked, "before residual add")
    assert "self.se(self.conv2(" in after
    _, after = diff(Stacked, "on identity branch")
    assert "torch.stack([self.se(x), self.branch(x)]).sum(0)" in after


def test_nested_residuals_get_a_layer_each() -> None:
    _, after = diff(Nested, "before residual add")
    assert "y = self.se_2(y + self.se(self.third(torch.relu(self.second(y)))))\n    return x + y" in after


def test_parallel_branches_get_a_layer_each() -> None:
    _, after = diff(Parallel, "before residual add")
    assert "return x + self.se(self.attn(y)) + self.se_2(self.mlp(y))" in after
    _, after = diff(Parallel, "on identity branch")
    assert "return self.se(x) + self.attn(y) + self.mlp(y)" in after


@pytest.mark.parametrize("at", ["before residual add", "start of residual branch", "on identity branch"])
@pytest.mark.parametrize("block", [Simple, Projected, Scaled, Stacked, Nested, Parallel])
def test_identity_keeps_every_bit(block: type[nn.Module], at: str) -> None:
    model = networks.lively(OneBlock(block))
    operated = sesurgery.apply(model, rule(at, init="identity"), example_input=IMAGE).model
    check_same(model, operated, IMAGE)


def test_scalar_attribute_of_the_block_is_read_at_run_time() -> None:
    model = networks.lively(OneBlock(Scaled))
    operated = sesurgery.apply(model, rule("before residual add", init="identity"), example_input=IMAGE).model
    for net in (model, operated):
        net.block.alpha = 3.0
    assert torch.equal(operated.eval()(IMAGE), model.eval()(IMAGE))


class Optional(nn.Module):
    """Arguments with defaults, by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, scale: float = 1.0, *, skip: bool = False, extra: Tensor | None = None) -> Tensor:
        if skip:
            return x
        y = self.conv(x) * scale
        return x + y


class Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Optional()

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.block(self.stem(x), **options)


def test_arguments_and_defaults_are_the_authors() -> None:
    model = Caller()
    operated = sesurgery.apply(model, rule("before residual add", init="identity"), example_input=IMAGE).model
    assert inspect.signature(operated.block.forward) == inspect.signature(model.block.forward)
    for options in ({}, {"scale": 2.0}, {"skip": True}, {"extra": torch.ones(1)}):
        check_same(model, operated, IMAGE, **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'shift'"):
        operated(IMAGE, shift=1)


class Sizes(nn.Module):
    """Branches on a size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[-1] % 2:
            y = y * 2
        return x + y


def test_both_sides_of_a_branch_on_sizes_run() -> None:
    model = OneBlock(Sizes)
    operated = sesurgery.apply(model, rule("before residual add", init="identity"), example_input=IMAGE).model
    for size in (12, 9):
        check_same(model, operated, torch.randn(1, 3, size, size))


class Switched(nn.Module):
    """A structural flag of the block: both ways are kept behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.deep = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.deep:
            y = self.extra(torch.relu(y))
        return x + y


@pytest.mark.parametrize("at", ["before residual add", "after residual add"])
def test_structural_flag_stays_alive(at: str) -> None:
    model = OneBlock(Switched)
    operated = sesurgery.apply(model, rule(at, init="identity"), example_input=IMAGE).model
    for deep in (False, True):
        model.block.deep = operated.block.deep = deep
        assert torch.equal(operated(IMAGE), model(IMAGE))
        calls: list[int] = []
        handle = operated.block.se.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        operated(IMAGE)
        handle.remove()
        assert calls == [1]


def test_equal_hosts_fold_into_one_diff() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Simple(), Simple(), Projected())
    plan = sesurgery.plan(model, rule("before residual add"), example_input=IMAGE)
    assert [(change.paths, change.cls) for change in plan.diffs] == [(("1", "2"), "Simple"), (("3",), "Projected")]


def test_traceback_shows_the_line_with_the_call() -> None:
    operated = sesurgery.apply(OneBlock(Simple), rule("before residual add"), example_input=IMAGE).model
    operated.block.se = nn.Linear(3, 3)
    with pytest.raises(RuntimeError) as caught:
        operated(IMAGE)
    entry = next(each for each in caught.traceback if "sesurgery" in str(each.path) and each.name == "forward")
    shown = "".join(traceback.format_exception(caught.value))
    assert "test_insertions.py" in str(entry.path)
    assert entry.lineno + 1 == Simple.forward.__code__.co_firstlineno + 1
    assert "return torch.relu(self.se(self.norm(self.conv1(x))) + x)" in shown


def test_the_source_of_an_operated_forward_can_be_asked_for() -> None:
    operated = sesurgery.apply(OneBlock(Simple), rule("before residual add"), example_input=IMAGE).model
    assert "self.se(self.norm(self.conv1(x))) + x" in inspect.getsource(type(operated.block).forward)
    assert type(operated.block).__name__ == "Simple"
    assert isinstance(operated.block, Simple)


class Loop(nn.Module):
    """Sums in a loop: one expression for all of them."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return x


def test_a_loop_is_tried_with_one_layer_and_not_with_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(self: StandIn, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x.clone()

    monkeypatch.setattr(StandIn, "forward", counted)
    plan = sesurgery.plan(Loop(12), rule("before residual add"), example_input=IMAGE)
    assert {edit.route for edit in plan.edits} == {"behind"}
    assert len(plan.edits) == 12
    assert calls < 6 * 12  # all at once they would be called 12 * 12 times
