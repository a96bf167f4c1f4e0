"""``sesurgery.testing.assert_forward``: what it lets pass, and what it says where the code is another one."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn

import sesurgery
from sesurgery import testing
from sesurgery.testing import assert_forward

RULE = {"insert": {"module": "eca"}, "at": "after residual add"}
BEFORE = """
    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv(x)
        add = x + conv
        return add
"""
AFTER = """
    def forward(self, x: Tensor) -> Tensor:

        conv = self.conv(x)
        add = self.eca(x + conv)

        return add
"""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv(x)
        add = x + conv
        return add


class Other(Block):
    def forward(self, x: Tensor) -> Tensor:
        add = x + self.conv(x).relu()
        return add


def planned(model: nn.Module, before: str, after: str, path: str | None = None) -> sesurgery.Plan:
    return assert_forward(model, RULE, before, after, path=path, example_input=torch.ones(1, 8, 4, 4))


def changed(model: nn.Module) -> tuple[list[str], list[str]]:
    diffs = sesurgery.plan(model, {"rules": [RULE]}, example_input=torch.ones(1, 8, 4, 4)).diffs
    return [diff.before for diff in diffs], [diff.after for diff in diffs]


def test_its_example_runs() -> None:
    outcome = doctest.testmod(testing)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_it_returns_the_plan_and_touches_nothing() -> None:
    model = Block()
    assert [edit.path for edit in planned(model, BEFORE, AFTER).edits] == ["eca"]
    assert list(vars(model)["_modules"]) == ["conv"]
    assert type(model) is Block


FORMS = {"rule": RULE, "mapping": {"rules": [RULE]}, "recipe": sesurgery.load_recipe({"rules": [RULE]})}


@pytest.mark.parametrize("form", FORMS)
def test_a_rule_and_a_recipe_are_taken_alike(form: str) -> None:
    assert_forward(Block(), FORMS[form], BEFORE, AFTER, input_size=(8, 4, 4))


def test_a_recipe_is_taken_by_name_with_options() -> None:
    options = {"module": "eca", "input_size": (8, 4, 4)}
    (diff,) = sesurgery.plan(Block(), "post", **options).diffs
    assert_forward(Block(), "post", diff.before, diff.after, **options)
    with pytest.raises(AssertionError):
        assert_forward(Block(), "post", diff.before, diff.before, **options)


def test_a_difference_is_shown_as_a_diff() -> None:
    with pytest.raises(AssertionError) as caught:
        planned(Block(), BEFORE, AFTER.replace("self.eca(x + conv)", "x + self.eca(conv)"))
    lines = str(caught.value).splitlines()
    assert "-    add = x + self.eca(conv)" in lines
    assert "+    add = self.eca(x + conv)" in lines
    assert "     conv = self.conv(x)" in lines
    assert lines[0] == "the code after the change is not what was expected"
    assert lines[-2:] == ["edits: insert eca (source)", "forwards that change: '' (Block)"]
    with pytest.raises(AssertionError, match="the code before the change") as caught:
        planned(Block(), "", AFTER)
    assert "after the change" not in str(caught.value)


def test_indentation_inside_counts() -> None:
    with pytest.raises(AssertionError):
        planned(Block(), BEFORE, AFTER.replace("        return", "            return"))


def test_several_forwards_stand_in_the_order_of_the_plan() -> None:
    model = nn.Sequential(Block(), Block(), Other())
    before, after = changed(model)
    assert len(before) == 2
    planned(model, "\n\n".join(before), "\n\n".join(after))
    planned(model, before[1], after[1], path="2")
    planned(model, BEFORE, AFTER, path="1")
    with pytest.raises(AssertionError):
        planned(model, "\n".join(reversed(before)), "\n".join(reversed(after)))
    with pytest.raises(AssertionError, match="forwards that change: '0', '1' \\(Block\\), '2' \\(Other\\)"):
        planned(model, BEFORE, AFTER, path="3")


def test_nothing_matched_is_told_by_the_planner() -> None:
    with pytest.raises(sesurgery.NothingMatchedError):
        assert_forward(nn.Sequential(nn.Conv2d(8, 8, 1)), RULE, "", "", input_size=(8, 4, 4))
