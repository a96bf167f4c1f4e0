"""From a recipe and a model to a plan, tried out on the twin; and from a plan back to what has to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy, dissect
from sesurgery.edits.kinds import KINDS
from sesurgery.errors import InputError, StalePlanError, UnfitHost
from sesurgery.operating.actions import Action, Realised
from sesurgery.operating.perform import perform
from sesurgery.planning.cost_after import (
    _after_inserts,
    cost_after,
    one_of_each_kind,
    only_inserts,
    with_structural_costs,
)
from sesurgery.planning.nothing_matched import nothing_matched
from sesurgery.plans import Diff, Edit, Plan, Skip
from sesurgery.recipe.recipe import to_data
from sesurgery.recipe.rules import Recipe
from sesurgery.recipe.selectors import parse_stages
from sesurgery.tracing.survey import Survey, survey
from sesurgery.tracing.trace import LOCK

Progress = Callable[[str, int, int], None]
Fresh = Callable[[], nn.Module]


@dataclass(frozen=True)
class Draft:
    """A plan with the actions it stands for, already performed on a twin of the model.

    Attributes:
        steps: the actions of each rule, in order.
        example: the arguments that the model was run with, on ``meta``.
    """

    plan: Plan
    steps: tuple[tuple[Action, ...], ...]
    example: tuple[Any, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """All actions, in order."""
        return tuple(action for step in self.steps for action in step)


def draft(
    model: nn.Module,
    recipe: Recipe,
    args: tuple[Any, ...],
    name: str,
    progress: Progress | None = None,
    fresh: Fresh | None = None,
) -> Draft:
    """Plan ``recipe`` on ``model`` without touching it, and try the plan out.

    Raises:
        NothingMatchedError: no rule found a site, with the nearest miss and its reason.
        InputError: a stage that the model does not have, or a model that cannot be looked at.
    """
    report = progress or _silent
    total = len(recipe.rules) + 2
    report("looking at the model", 0, total)
    seen = survey(model, args, fresh)
    anatomy = dissect(seen)
    before = seen.cost
    stages = len(anatomy.stages)
    edits: list[Edit] = []
    skips: list[Skip] = []
    diffs: list[Diff] = []
    steps: list[tuple[Action, ...]] = []
    missing: list[InputError] = []
    for index, rule in enumerate(recipe.rules):
        report(f"planning rule {index + 1}", index + 1, total)
        if index and steps and steps[-1]:
            seen = _again(seen, steps[-1])
            anatomy = dissect(seen)
        absent = _absent_stages(rule.where.stages, anatomy)
        if absent is not None:
            missing.append(absent)
            skips.append(Skip("", absent.what, str(rule.at)))
            continue
        with LOCK:
            found = list(KINDS[rule.action].propose(anatomy, rule))
            chosen = [_at_step(edit, index) for edit in found if isinstance(edit, Edit)]
            skips += [skip for skip in found if isinstance(skip, Skip)]
            chosen, realised = _realised(rule.action, anatomy, chosen, skips)
            inserts = len(recipe.rules) == 1 and only_inserts(chosen)
            tried = one_of_each_kind(seen, chosen) if inserts else {}
            perform(seen.twin, [act for act in realised.actions if not inserts or act.host in tried])
        edits += chosen
        diffs += realised.diffs
        steps.append(realised.actions)
    if len(missing) == len(recipe.rules):
        raise missing[0]
    if not edits:
        raise nothing_matched(recipe.name, name, anatomy, skips)
    report("counting the costs", total - 1, total)
    inserts = len(recipe.rules) == 1 and only_inserts(edits)
    after = _after_inserts(seen, before, edits) if inserts else cost_after(seen, model, steps)
    plan = Plan(
        model=name,
        recipe=to_data(recipe),
        edits=tuple(with_structural_costs(edits, before, after)),
        skipped=tuple(skips),
        diffs=folded(diffs),
        stages=stages,
        before=before,
        after=after,
    )
    report("done", total, total)
    return Draft(plan, tuple(steps), args)


def replay(
    model: nn.Module, plan: Plan, args: tuple[Any, ...], progress: Progress | None = None, fresh: Fresh | None = None
) -> Draft:
    """Make a finished plan concrete on a model that looks like the one it was made for.

    Raises:
        StalePlanError: the model differs where the plan would cut.
    """
    report = progress or _silent
    report("looking at the model", 0, 2)
    seen = survey(model, args, fresh)
    before = seen.cost
    steps: list[tuple[Action, ...]] = []
    for index, group in enumerate(_by_step(plan.edits)):
        if index:
            seen = _again(seen, steps[-1])
        kinds = {edit.action for edit in group}
        if len(kinds) != 1 or not kinds <= KINDS.keys():
            raise StalePlanError(f"a step of the plan has the actions {sorted(kinds)}", remedy="plan again")
        with LOCK:
            try:
                realised: Realised = KINDS[kinds.pop()].realise(dissect(seen), group)
            except UnfitHost as unfit:
                raise StalePlanError(str(unfit), where=unfit.host, remedy="plan again on this model") from None
            perform(seen.twin, realised.actions)
        steps.append(realised.actions)
    report("counting the costs", 1, 2)
    after = cost_after(seen, model, steps)
    report("done", 2, 2)
    return Draft(replace(plan, before=before, after=after), tuple(steps), args)


def _realised(action: str, anatomy: Anatomy, edits: list[Edit], skips: list[Skip]) -> tuple[list[Edit], Realised]:
    """The actions for edits; hosts that cannot be given a new forward are left out, with the reason."""
    while True:
        try:
            return edits, KINDS[action].realise(anatomy, edits)
        except UnfitHost as unfit:
            skips += [Skip(edit.path, str(unfit), edit.at) for edit in edits if edit.host == unfit.host]
            edits = [edit for edit in edits if edit.host != unfit.host]


def _silent(step: str, done: int, total: int) -> None:
    return None


def _again(seen: Survey, step: Sequence[Action]) -> Survey:
    """A survey of the twin behind a step that was performed on it; a body with numbers goes along."""
    body = seen.body
    if body is None:
        return survey(seen.twin, seen.args)
    perform(body, step)
    return survey(seen.twin, seen.args, lambda: body)


def _at_step(edit: Edit, step: int) -> Edit:
    return replace(edit, site={**edit.site, "step": step})


def _by_step(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    groups: dict[int, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(int(edit.site.get("step", 0)), []).append(edit)
    yield from (groups[step] for step in sorted(groups))


def _absent_stages(stages: str, anatomy: Anatomy) -> InputError | None:
    """The error for a rule about stages that the model does not have. Another rule of the recipe may still hold."""
    if stages == "all":
        return None
    if not anatomy.stages:
        return InputError(
            f"stages {stages} of a model in which no stage could be found",
            remedy='leave --stages out, or narrow by path: where: {path: "..."}',
        )
    try:
        parse_stages(stages, len(anatomy.stages))
    except InputError as error:
        return error
    return None


def folded(diffs: Sequence[Diff]) -> tuple[Diff, ...]:
    """Equal hosts under one diff."""
    paths: dict[tuple[str, str, str], list[str]] = {}
    for diff in diffs:
        paths.setdefault((diff.cls, diff.before, diff.after), []).extend(diff.paths)
    return tuple(Diff(tuple(found), *key) for key, found in paths.items())
