"""A rehearsal: what it looks at, what it performs, what it counts, and that the model itself stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from checks import same_weights
from networks import Block, Branching, Net, Short, X
from torch import nn

from sesurgery.edits.driver import Step, plan_step
from sesurgery.operating.backup import mark_of
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.recipe.recipe import load_recipe

SMALL = torch.ones(1, 3, 8, 8)


def step(rehearsal: Rehearsal, number: int = 0, **rule: Any) -> Step:
    return plan_step(rehearsal.look(), load_recipe({"rules": [rule]}).rules[0], number)


INSERTIONS: dict[str, tuple[nn.Module, torch.Tensor, str]] = {
    "forwards": (Net(Block(8), Block(8), Short(8)), X, "before residual add"),
    "behind children": (Net(Block(8), Block(8)), X, "end of backbone"),
    "a copy with numbers": (Branching(), SMALL, "before residual add"),
}


@pytest.mark.parametrize("name", INSERTIONS)
def test_the_cost_after_is_that_of_the_operated_copy(name: str) -> None:
    model, example, at = INSERTIONS[name]
    before = copy.deepcopy(model)
    rehearsal = Rehearsal(model, (example,))
    rehearsal.perform(step(rehearsal, insert={"module": "se"}, at=at))
    cost = rehearsal.cost()
    start, edits = rehearsal.survey.cost, rehearsal.edits
    assert cost.params - start.params == sum(edit.params for edit in edits) > 0
    assert cost.macs - start.macs == sum(edit.macs for edit in edits) > 0
    assert cost.activation_bytes > start.activation_bytes
    assert same_weights(model, before)
    assert not any(mark_of(module) for module in model.modules())


def test_steps_are_numbered() -> None:
    rehearsal = Rehearsal(Net(Block(8), Block(8)), (X,))
    rehearsal.perform(step(rehearsal, remove={}, at="activation"))
    rehearsal.perform(step(rehearsal, 1, insert={"module": "se"}, at="end of block"))
    assert [edit.step for edit in rehearsal.edits] == [0, 0, 1, 1]


@pytest.mark.parametrize("build", [lambda: Net(Block(8), Block(8)), Branching], ids=["on meta", "with numbers"])
def test_a_second_look_sees_the_step(build: Any) -> None:
    rehearsal = Rehearsal(build(), (SMALL,))
    first = rehearsal.look()
    assert rehearsal.look() is first
    assert not first.attention
    cost = rehearsal.cost()
    rehearsal.perform(step(rehearsal, insert={"module": "se"}, at="end of block"))
    after = rehearsal.cost()
    second = rehearsal.look()
    assert {second.survey.paths[layer] for layer in second.attention} == {edit.path for edit in rehearsal.edits}
    assert second.survey.cost.macs > cost.macs
    assert replace(after, uncounted={}) == replace(second.survey.cost, uncounted={})  # meta copies are listed there
