"""From a recipe and a model to a plan that was rehearsed; and from a plan back to what has to be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.driver import plan_step, replay_step
from sesurgery.errors import InputError
from sesurgery.operating.actions import Action
from sesurgery.planning.later_calls import with_lost_layers
from sesurgery.planning.nothing_matched import nothing_matched
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.plans import Cost, Diff, Edit, Plan, Skip
from sesurgery.recipe.recipe import to_data
from sesurgery.recipe.rules import Recipe
from sesurgery.recipe.selectors import parse_stages
from sesurgery.recipe.where import Where
from sesurgery.recording.nested import sample_shapes
from sesurgery.tracing.trace import LOCK

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Draft:
    """A plan with the actions it stands for, already performed on a copy of the model.

    Attributes:
        example: the arguments that the model was run with, on ``meta``.
    """

    plan: Plan
    actions: tuple[Action, ...]
    example: tuple[Any, ...] = ()


def draft(rehearsal: Rehearsal, recipe: Recipe, name: str, report: Progress) -> Draft:
    """Plan ``recipe`` on a model without touching it, and try the plan out.

    Raises:
        NothingMatchedError: no rule found a site, with the nearest miss and its reason.
        InputError: a stage that the model does not have.
    """
    total = len(recipe.rules) + 2
    before, stages = rehearsal.cost(), len(rehearsal.look().stages)
    absent: list[InputError] = []
    skips: list[Skip] = []
    for number, rule in enumerate(recipe.rules):
        report(f"planning rule {number + 1}", number + 1, total)
        anatomy = rehearsal.look()
        error = _absent_stages(rule.where, anatomy)
        if error is not None:
            absent.append(error)
            skips.append(Skip("", error.what, str(rule.at)))
            continue
        with LOCK:
            step = plan_step(anatomy, rule, number)
        rehearsal.perform(step)
        skips += step.skips
    if len(absent) == len(recipe.rules):
        raise absent[0]
    if not rehearsal.edits:
        raise nothing_matched(recipe, name, rehearsal.look(), skips)
    report("counting the costs", total - 1, total)
    after = rehearsal.cost()
    edits = with_structural_costs(with_lost_layers(rehearsal), before, after)
    inputs = sample_shapes(rehearsal.example)
    plan = Plan(name, to_data(recipe), edits, tuple(skips), folded(rehearsal.diffs), stages, before, after, inputs)
    report("done", total, total)
    return Draft(plan, rehearsal.actions, rehearsal.example)


def replay(rehearsal: Rehearsal, plan: Plan, report: Progress) -> Draft:
    """Make a finished plan concrete on a model that looks like the one it was made for.

    Raises:
        StalePlanError: the model differs where the plan would cut.
    """
    before = rehearsal.cost()
    for _, edits in groupby(sorted(plan.edits, key=lambda edit: edit.step), key=lambda edit: edit.step):
        with LOCK:
            step = replay_step(rehearsal.look(), list(edits))
        rehearsal.perform(step)
    report("counting the costs", 1, 2)
    after = rehearsal.cost()
    report("done", 2, 2)
    costed = replace(plan, before=before, after=after, inputs=sample_shapes(rehearsal.example))
    return Draft(costed, rehearsal.actions, rehearsal.example)


def with_structural_costs(edits: tuple[Edit, ...], before: Cost, after: Cost) -> tuple[Edit, ...]:
    """Where there is one edit only, its cost is the difference of the totals."""
    if len(edits) != 1 or edits[0].action == "insert":
        return edits
    return (replace(edits[0], params=after.params - before.params, macs=after.macs - before.macs),)


def _absent_stages(where: Where, anatomy: Anatomy) -> InputError | None:
    """The error for a rule about stages that the model does not have. Another rule of the recipe may still hold."""
    if where.stages == "all":
        return None
    regions = where.region or (None,)
    counts = [len(anatomy.stages_in(region)) for region in regions]
    if not any(counts):
        return InputError(
            f"stages {where.stages} of a {regions[0] or 'model'} in which no stage could be found",
            remedy='leave --stages out, or narrow by path: where: {path: "..."}',
        )
    try:
        parse_stages(where.stages, max(counts))
    except InputError as error:
        return error
    return None


def folded(diffs: Sequence[Diff]) -> tuple[Diff, ...]:
    """Equal hosts under one diff."""
    paths: dict[Diff, list[str]] = {}
    for diff in diffs:
        paths.setdefault(replace(diff, paths=()), []).extend(diff.paths)
    return tuple(replace(diff, paths=tuple(group)) for diff, group in paths.items())
