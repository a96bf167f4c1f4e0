"""Rewritten forwards, read as text and run: before, after, and what stays alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import Nested, OneBlock, Parallel, Parts, Projected, Scaled, Stacked, lively
from torch import Tensor, nn

import sesurgery
from sesurgery.testing import assert_forward

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rule(at: str, **node: Any) -> dict[str, Any]:
    return {"name": "test", "rules": [{"insert": {"module": "se", "rd_channels": 2, **node}, "at": at}]}


def diff(block: type[nn.Module], at: str) -> tuple[str, str]:
    (found,) = sesurgery.plan(OneBlock(block), rule(at), example_input=IMAGE).diffs
    assert found.cls == block.__name__
    assert found.paths == ("block",)
    return found.before, found.after


class Simple(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv1(x)) + x)


BEFORE = """
def forward(self, x):
    conv1 = self.conv1(x)
    norm = self.norm(conv1)
    add = norm + x
    relu = torch.relu(add)
    return relu
"""
AFTER = {
    "before residual add": """
def forward(self, x):
    conv1 = self.conv1(x)
    norm = self.norm(conv1)
    se = self.se(norm)
    add = se + x
    relu = torch.relu(add)
    return relu
""",
    "start of residual branch": """
def forward(self, x):
    se = self.se(x)
    conv1 = self.conv1(se)
    norm = self.norm(conv1)
    add = norm + x
    relu = torch.relu(add)
    return relu
""",
    "on identity branch": """
def forward(self, x):
    se = self.se(x)
    conv1 = self.conv1(x)
    norm = self.norm(conv1)
    add = norm + se
    relu = torch.relu(add)
    return relu
""",
    "after residual add": """
def forward(self, x):
    conv1 = self.conv1(x)
    norm = self.norm(conv1)
    add = norm + x
    relu = torch.relu(add)
    se = self.se(relu)
    return se
""",
}


@pytest.mark.parametrize("at", AFTER)
def test_forward_before_and_after(at: str) -> None:
    plan = assert_forward(OneBlock(Simple), rule(at), BEFORE, AFTER[at], example_input=IMAGE)
    assert [(diff.cls, diff.paths) for diff in plan.diffs] == [("Simple", ("block",))]


def test_projection_is_left_of_the_node_on_the_identity() -> None:
    _, after = diff(Projected, "on identity branch")
    assert "norm = self.norm(project)\n    se = self.se(norm)" in after
    assert "add = se + conv2" in after


def test_scalars_dropout_and_layer_scale_stay_behind_the_node() -> None:
    before, after = diff(Scaled, "before residual add")
    assert "se = self.se(conv2)\n    mul = gamma * se" in after
    assert "drop = self.drop(mul)" in after
    assert after.count("*") == before.count("*") == 2


def test_stacked_sum() -> None:
    _, after = diff(Stacked, "before residual add")
    assert "torch.stack([x, se])" in after


def test_nested_residuals_get_a_node_each() -> None:
    _, after = diff(Nested, "before residual add")
    assert "se = self.se(third)\n    add = first + se\n    se_2 = self.se_2(add)\n    add_1 = x + se_2" in after


def test_parallel_branches_get_a_node_each() -> None:
    _, after = diff(Parallel, "before residual add")
    assert "self.se(attn)" in after
    assert "self.se_2(mlp)" in after
    _, after = diff(Parallel, "on identity branch")
    assert after.count("self.se") == 1


@pytest.mark.parametrize("at", ["before residual add", "start of residual branch", "on identity branch"])
@pytest.mark.parametrize("block", [Simple, Projected, Scaled, Stacked, Nested, Parallel])
def test_identity_keeps_every_bit(block: type[nn.Module], at: str) -> None:
    model = lively(OneBlock(block))
    operated = sesurgery.apply(model, rule(at, init="identity"), example_input=IMAGE).model
    for training in (False, True):
        torch.manual_seed(1)
        wanted = model.train(training)(IMAGE)
        torch.manual_seed(1)
        assert torch.equal(operated.train(training)(IMAGE), wanted)


def test_scalar_attribute_of_the_block_is_read_at_run_time() -> None:
    model = lively(OneBlock(Scaled))
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


def test_defaults_stay_in_the_signature() -> None:
    model = Caller()
    operated = sesurgery.apply(model, rule("before residual add", init="identity"), example_input=IMAGE).model
    assert torch.equal(operated(IMAGE), model(IMAGE))
    assert torch.equal(operated(IMAGE, scale=2.0), model(IMAGE, scale=2.0))
    with pytest.raises(sesurgery.FrozenValueError, match="skip"):
        operated(IMAGE, skip=True)


class Sizes(nn.Module):
    """Branches on a size, which the trace follows and guards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[-1] % 2:
            y = y * 2
        return x + y


def test_other_side_of_a_branch_on_sizes_is_refused_at_run_time() -> None:
    model = OneBlock(Sizes)
    operated = sesurgery.apply(model, rule("before residual add", init="identity"), example_input=IMAGE).model
    larger = torch.randn(1, 3, 12, 12)
    assert torch.equal(operated(larger), model(larger))
    with pytest.raises(sesurgery.FrozenValueError, match=r"Sizes\.forward"):
        operated(torch.randn(1, 3, 9, 9))


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
    assert [(found.paths, found.cls) for found in plan.diffs] == [(("1", "2"), "Simple"), (("3",), "Projected")]


def test_traceback_shows_the_generated_line() -> None:
    operated = sesurgery.apply(OneBlock(Simple), rule("before residual add"), example_input=IMAGE).model
    operated.block.se = nn.Linear(3, 3)
    with pytest.raises(RuntimeError) as caught:
        operated(IMAGE)
    shown = "".join(map(str, caught.traceback))
    assert "<sesurgery Simple.forward" in shown
    assert "se = self.se(norm)" in shown
