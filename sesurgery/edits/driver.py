"""The one way from a rule to edits, and from edits to what has to be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import swap_actions, try_together
from sesurgery.edits.insert_code import insert_actions, with_notes
from sesurgery.edits.kinds import KINDS, Proposal, Target
from sesurgery.edits.written_gates import bypass_actions
from sesurgery.errors import StalePlanError, Unfit, UnfitHosts, UnknownNameError
from sesurgery.operating.actions import Action, SetChild
from sesurgery.placement.inherited_options import dtype_at
from sesurgery.placement.site_facts import facts
from sesurgery.plans import BypassGate, Diff, Edit, Skip, SwapChild
from sesurgery.recipe.rules import Rule
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.rewriting.trial import try_in_turns, try_otherwise
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import join


@dataclass(frozen=True)
class Step:
    """What one rule does to a model: edits as data and as actions, and what it leaves alone."""

    edits: tuple[Edit, ...] = ()
    actions: tuple[Action, ...] = ()
    diffs: tuple[Diff, ...] = ()
    skips: tuple[Skip, ...] = ()


def plan_step(anatomy: Anatomy, rule: Rule, number: int) -> Step:
    """The edits of a rule, the ``number``-th of its recipe. What it cannot change is skipped, with the reason.

    The edits of a host are tried all at once. Only where that fails they are planned again, each tried by itself; then,
    where some were refused in a loop, those together.
    """
    survey = anatomy.survey
    survey.memo["planning"] = True
    edits, skips = _edits(anatomy, rule, number)
    while True:
        try:
            actions, diffs = realise(anatomy, edits)
        except UnfitHosts as unfit:
            untried = [path for path in unfit.reasons if try_otherwise(survey, survey.module(path))]
            if untried:
                edits, skips = _edits(anatomy, rule, number)
                continue
            skips += [
                Skip(edit.path, unfit.reasons[edit.host], edit.at) for edit in edits if edit.host in unfit.reasons
            ]
            edits = [edit for edit in edits if edit.host not in unfit.reasons]
        else:
            if try_in_turns(survey):
                edits, skips = _edits(anatomy, rule, number)
                continue
            edits = with_notes(survey, edits)
            return Step(tuple(edits), _in_dtype(survey, edits, actions), tuple(diffs), tuple(skips))


def _edits(anatomy: Anatomy, rule: Rule, number: int) -> tuple[list[Edit], list[Skip]]:
    kind = KINDS[rule.action]
    edits: list[Edit] = []
    skips: list[Skip] = []
    for target in kind.targets(anatomy, rule):
        if isinstance(target, Skip):
            skips.append(replace(target, at=str(rule.at)))
            continue
        names = (target.path, *target.names)
        known = facts(anatomy, target.holder, target.value, target.layer, rule, names, target.node)
        if mismatch := _left_out(rule, known):
            skips.append(Skip(target.path, mismatch, str(rule.at), meant=False))
            continue
        try:
            edits.append(_edit(anatomy, rule, number, kind.edit(anatomy, rule, target), target, known))
        except Unfit as reason:
            skips.append(Skip(target.path, str(reason), str(rule.at)))
    try:
        try_together(anatomy.survey, edits)
    except Unfit as reason:
        return [], skips + [Skip(edit.path, str(reason), edit.at) for edit in edits]
    return edits, skips


def _left_out(rule: Rule, known: SiteFacts) -> str | None:
    if rule.only_blocks and known.block is None and not known.plain:
        return "in no block; where: {path: ...}, {type: ...} or {inside: ...} can name it"
    return rule.where.mismatch(known)


def replay_step(anatomy: Anatomy, edits: Sequence[Edit]) -> Step:
    """Finished edits on a model that looks the same. Raises ``StalePlanError`` where it does not."""
    for edit in edits:
        try:
            KINDS.find(edit.action)
        except UnknownNameError as error:
            problem = f"a step of the plan has actions that are not registered ({error})"
            raise StalePlanError(problem, where=edit.path, remedy="import the file that registers them first") from None
    try:
        actions, diffs = realise(anatomy, edits)
    except UnfitHosts as unfit:
        host, problem = next(iter(unfit.reasons.items()))
        raise StalePlanError(problem, where=host, remedy="plan again on this model") from None
    return Step(tuple(edits), _in_dtype(anatomy.survey, edits, actions), tuple(diffs))


def _in_dtype(survey: Survey, edits: Iterable[Edit], actions: Iterable[Action]) -> tuple[Action, ...]:
    """Attention layers get the dtype of what they act on in this model, which a plan does not fix: it may be halved."""
    at = {edit.path: edit for edit in edits}

    def settled(action: Action) -> Action:
        edit = at.get(join(action.host, action.name)) if isinstance(action, SetChild) and action.attention else None
        return action if edit is None else replace(action, dtype=dtype_at(survey, edit))

    return tuple(settled(action) for action in actions)


def _edit(anatomy: Anatomy, rule: Rule, number: int, proposal: Proposal, target: Target, known: SiteFacts) -> Edit:
    survey = anatomy.survey
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


def realise(anatomy: Anatomy, edits: Iterable[Edit]) -> tuple[list[Action], list[Diff]]:
    """What has to be done: children to exchange, then layers and new forwards host by host.

    Raises:
        StalePlanError: the model is not what the edits were made for.
        UnfitHosts: some cannot be given a new forward.
    """
    survey = anatomy.survey
    hosts: dict[str, list[Edit]] = defaultdict(list)
    swaps: list[Edit] = []
    for edit in edits:
        _verify(survey, edit)
        (swaps if isinstance(edit.change, SwapChild) else hosts[edit.host]).append(edit)
    actions, diffs = swap_actions(survey, swaps)
    unfit: dict[str, str] = {}
    for path, group in hosts.items():
        try:
            if any(isinstance(edit.change, BypassGate) for edit in group):
                more, diff = bypass_actions(anatomy, survey.module(path), group)
            else:
                more, diff = insert_actions(survey, survey.module(path), group)
        except Unfit as reason:
            unfit[path] = str(reason)
        else:
            actions += more
            diffs += diff
    if unfit:
        raise UnfitHosts(unfit)
    return actions, diffs


def _verify(survey: Survey, edit: Edit) -> None:
    """Raise ``StalePlanError`` unless the host of an edit is in this model what the plan was made for."""
    remedy = "plan again on this model"
    try:
        host = survey.module(edit.host)
    except AttributeError:
        problem = f"the plan wants to operate on {edit.host}, and this model has no such module"
        raise StalePlanError(problem, where=edit.path, remedy=remedy) from None
    if fingerprint(survey, host) != edit.fingerprint:
        problem = "the forward of its host is not the one that the plan was made for"
        raise StalePlanError(problem, where=edit.path, remedy=remedy)
