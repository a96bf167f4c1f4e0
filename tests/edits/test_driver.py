"""The driver: targets, ``where:``, refusals, and the way to actions, for any kind of edit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checks import check_operated
from networks import Block, Gated, Net, X
from torch import Tensor, nn

import sesurgery
from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import named_targets, swap
from sesurgery.edits.driver import plan_step, replay_step
from sesurgery.edits.kinds import EditKind, Proposal, Target
from sesurgery.errors import StalePlanError, Unfit
from sesurgery.operating.perform import perform
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.plans import OtherActivation, Skip
from sesurgery.recipe.recipe import load_recipe
from sesurgery.recipe.rules import Rule
from sesurgery.words.registry import Registry


class Picky:
    """Exchanges activations, but for those of the first block."""

    action = "remove"

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
        yield Skip("somewhere", "no target at all")
        yield from named_targets(anatomy, rule)

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        if target.path.startswith("blocks.0"):
            raise Unfit("the first one stays")
        return swap(anatomy, target.path, OtherActivation("silu"), notes=["another function"])


def kinds(*known: EditKind) -> Registry[EditKind]:
    registry: Registry[EditKind] = Registry("edit kind")
    for kind in known:
        registry.add(kind.action, kind)
    return registry


def rule(**keys: object) -> Rule:
    return load_recipe({"rules": [{"remove": {}, "at": "activation", **keys}]}).rules[0]


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    monkeypatch.setattr("sesurgery.edits.driver.KINDS", kinds(Picky()))
    return Rehearsal(Net(Block(8), Block(8), Block(8)), (X,))


def test_a_kind_says_targets_and_one_edit_and_the_driver_does_the_rest(rehearsal: Rehearsal) -> None:
    step = plan_step(rehearsal.look(), rule(where={"blocks": "0,1"}), 3)
    (edit,) = step.edits
    assert (edit.path, edit.host, edit.block) == ("blocks.1.act", "blocks.1", "blocks.1")
    assert (edit.action, edit.at, edit.module, edit.step, edit.route) == ("remove", "activation", "SiLU", 3, "child")
    assert edit.notes[0] == "another function"
    reasons = {skip.path: (skip.reason, skip.at) for skip in step.skips}
    assert reasons["somewhere"] == ("no target at all", "activation")
    assert reasons["blocks.0.act"] == ("the first one stays", "activation")
    assert "block" in reasons["blocks.2.act"][0]
    net = Net(Block(8), Block(8), Block(8))
    perform(net, step.actions)
    assert type(net.get_submodule("blocks.1.act")) is nn.SiLU


def test_where_is_asked_before_the_kind(rehearsal: Rehearsal) -> None:
    step = plan_step(rehearsal.look(), rule(where={"blocks": "1"}), 0)
    assert "the first one stays" not in {skip.reason for skip in step.skips}


def test_edits_of_a_kind_that_nobody_knows_are_not_replayed(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = plan_step(rehearsal.look(), rule(), 0).edits
    assert [edit.path for edit in replay_step(rehearsal.look(), edits).edits] == [edit.path for edit in edits]
    monkeypatch.setattr("sesurgery.edits.driver.KINDS", kinds())
    with pytest.raises(StalePlanError, match="actions"):
        replay_step(rehearsal.look(), edits)


# attention that is there already


class Chained(nn.Module):
    """A residual block, the branch of which is a chain of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def inserted(model: nn.Module, module: str, at: str) -> sesurgery.Surgery:
    recipe = {"rules": [{"insert": {"module": module}, "at": at, "if_present": "replace"}]}
    return sesurgery.apply(model, recipe, example_input=X)


def test_a_layer_behind_a_child_is_replaced_where_it_is() -> None:
    net = Net(Chained(8), Chained(8))
    first = inserted(net, "se", "after first spatial conv")
    again = inserted(first.model, "eca", "after first spatial conv")
    paths = [edit.path for edit in first.plan.edits]
    assert [edit.path for edit in again.plan.edits] == paths == ["blocks.0.body.0.se", "blocks.1.body.0.se"]
    assert {edit.route for edit in again.plan.edits} == {"child"}
    assert {type(again.model.get_submodule(path)).__name__ for path in paths} == {"EcaModule"}
    check_operated(net, again.model, X)


def test_a_written_gate_is_no_child_to_replace() -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match="written in its forward"):
        inserted(Net(Gated(8), Gated(8)), "eca", "before residual add")
