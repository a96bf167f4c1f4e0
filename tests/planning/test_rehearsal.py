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
def test_costs_of_insertions_add_up_to_those_of_a_forward(name: str) -> None:
    model, example, at = INSERTIONS[name]
    before = copy.deepcopy(model)
    costs = []
    for added in (True, False):
        rehearsal = Rehearsal(model, (example,))
        rehearsal.perform(step(rehearsal, insert={"module": "se"}, at=at))
        cost = rehearsal.cost_of_insertions() if added else rehearsal.cost()
        assert cost is not None
        costs.append(replace(cost, uncounted={}))  # copies of numbers to meta are listed there
    assert costs[0] == costs[1]
    assert costs[0].params > rehearsal.survey.cost.params
    assert same_weights(model, before)
    assert not any(mark_of(module) for module in model.modules())


def test_only_a_first_step_of_insertions_adds_up() -> None:
    rehearsal = Rehearsal(Net(Block(8), Block(8)), (X,))
    rehearsal.perform(step(rehearsal, remove={}, at="activation"))
    assert rehearsal.cost_of_insertions() is None
    rehearsal.perform(step(rehearsal, 1, insert={"module": "se"}, at="end of block"))
    assert rehearsal.cost_of_insertions() is None
    assert [edit.step for edit in rehearsal.edits] == [0, 0, 1, 1]


@pytest.mark.parametrize("build", [lambda: Net(Block(8), Block(8)), Branching], ids=["on meta", "with numbers"])
def test_a_second_look_sees_the_step(build: Any) -> None:
    rehearsal = Rehearsal(build(), (SMALL,))
    first = rehearsal.look()
    assert rehearsal.look() is first
    assert not first.attention
    cost = rehearsal.cost()
    rehearsal.perform(step(rehearsal, insert={"module": "se"}, at="end of block"))
    second = rehearsal.look()
    assert {second.survey.paths[layer] for layer in second.attention} == {edit.path for edit in rehearsal.edits}
    assert second.survey.cost.macs > cost.macs
    assert rehearsal.cost() == second.survey.cost
