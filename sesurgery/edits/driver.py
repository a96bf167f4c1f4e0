"""The one way from a rule to edits, and from edits to what has to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.kinds import KINDS, EditKind, Target
from sesurgery.edits.to_actions import realise
from sesurgery.errors import StalePlanError, Unfit, UnfitHost
from sesurgery.operating.actions import Action
from sesurgery.placement.site_facts import facts
from sesurgery.plans import Diff, Edit, Skip
from sesurgery.recipe.rules import Rule
from sesurgery.tracing.fingerprint import fingerprint


@dataclass(frozen=True)
class Step:
    """What one rule does to a model: edits as data and as actions, and what it leaves alone."""

    edits: tuple[Edit, ...] = ()
    actions: tuple[Action, ...] = ()
    diffs: tuple[Diff, ...] = ()
    skips: tuple[Skip, ...] = ()


def plan_step(anatomy: Anatomy, rule: Rule, number: int) -> Step:
    """The edits of a rule, the ``number``-th of its recipe. What it cannot change is skipped, with the reason."""
    kind = KINDS[rule.action]
    edits: list[Edit] = []
    skips: list[Skip] = []
    for target in kind.targets(anatomy, rule):
        if isinstance(target, Skip):
            skips.append(replace(target, at=str(rule.at)))
            continue
        try:
            edits.append(_edit(anatomy, rule, number, kind, target))
        except Unfit as reason:
            skips.append(Skip(target.path, str(reason), str(rule.at)))
    while True:
        try:
            actions, diffs = realise(anatomy, edits)
        except UnfitHost as unfit:
            skips += [Skip(edit.path, str(unfit), edit.at) for edit in edits if edit.host == unfit.host]
            edits = [edit for edit in edits if edit.host != unfit.host]
        else:
            return Step(tuple(edits), tuple(actions), tuple(diffs), tuple(skips))


def replay_step(anatomy: Anatomy, edits: Sequence[Edit]) -> Step:
    """Finished edits on a model that looks the same. Raises ``StalePlanError`` where it does not."""
    unknown = sorted({edit.action for edit in edits} - KINDS.keys())
    if unknown:
        raise StalePlanError(f"a step of the plan has the actions {unknown}", remedy="plan again")
    try:
        actions, diffs = realise(anatomy, edits)
    except UnfitHost as unfit:
        raise StalePlanError(str(unfit), where=unfit.host, remedy="plan again on this model") from None
    return Step(tuple(edits), tuple(actions), tuple(diffs))


def _edit(anatomy: Anatomy, rule: Rule, number: int, kind: EditKind, target: Target) -> Edit:
    survey = anatomy.survey
    known = facts(anatomy, target.holder, target.value, target.conv, rule)
    mismatch = rule.where.mismatch(known)
    if mismatch:
        raise Unfit(mismatch)
    proposal = kind.edit(anatomy, rule, target)
    host = proposal.path.rpartition(".")[0]
    block = anatomy.block_of(target.holder)
    return Edit(
        action=rule.action,
        path=proposal.path,
        at=str(rule.at),
        host=host,
        stage=known.stage,
        block=survey.paths[block] if block is not None else None,
        channels=known.channels,
        module=proposal.module,
        change=proposal.change,
        fingerprint=fingerprint(survey, survey.module(host)),
        step=number,
        params=proposal.params,
        macs=proposal.macs,
        notes=proposal.notes,
    )
