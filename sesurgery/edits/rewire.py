"""The edit ``rewire``: a stage gets another shape.

``to: csp``: the blocks of a stage that keep the shape (all but the first one of most stages, which halves the map or
changes the channels) become one :class:`~sesurgery.substitutes.csp_stage.CSPStage` in the place of the first of them;
identities keep the places of the others, so that nothing is renumbered. Where a stage changes its channels half way,
each run of blocks becomes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import input_of, only_place, swap
from sesurgery.edits.kinds import Proposal, Target, edit_kind
from sesurgery.errors import Unfit
from sesurgery.plans import CrossStage, Identity, Skip, Stage
from sesurgery.recipe.rules import Rewire, Rule
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.substitutes.csp_stage import CSPStage
from sesurgery.substitutes.narrower_block import narrowed, runs_as
from sesurgery.substitutes.registry import make
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import outwards

_WIDTHS = {"half width": Fraction(1, 2), "same width": Fraction(1)}


@make.register
def _csp(new: CrossStage, old: nn.Module, *sources: nn.Module) -> nn.Module:
    ratio = Fraction(new.inner, sum(new.widths))
    return CSPStage([narrowed(block, ratio) for block in (old, *sources)], new.widths, new.inner)


@edit_kind
class RewireKind:
    """Rebuilds stages."""

    action = "rewire"

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
        """Each run of blocks in a stage that keep the shape."""
        for stage in anatomy.stages:
            if not stage.blocks:
                continue
            try:
                for run in _runs(anatomy, stage):
                    path = anatomy.survey.paths[run[0]]
                    yield Target(path, run, path, input_of(anatomy.survey, run[0]))
            except Unfit as reason:
                yield Skip(stage.blocks[0], str(reason))

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """A stage in the place of the first block, identities in the places of the others."""
        survey, edit, value = anatomy.survey, rule.edit, target.value
        assert isinstance(edit, Rewire)
        assert value is not None
        for block in target.subject:
            only_place(survey, block)
            if survey.probe.calls.get(block, 0) > 1:
                raise Unfit("a block is called several times in one forward")
        others = tuple(survey.paths[block] for block in target.subject[1:])
        new = _cross_stage(edit, value, others)
        ratio = Fraction(new.inner, value.shape[1])
        notes = []
        if ratio != 1:
            for block in target.subject:
                runs_as(narrowed(block, ratio), (value.shape[0], new.inner, *value.shape[2:]))
            notes.append("its weights are the first slices of the old ones: train anew")
        if new.inner != new.widths[0]:
            notes.append("fresh 1x1 convolutions lead in and out")
        return swap(anatomy, target.path, new, dict.fromkeys(others, Identity()), notes=notes)


def _runs(anatomy: Anatomy, stage: Stage) -> list[list[nn.Module]]:
    """Neighbouring blocks of a stage that keep the shape and see nothing but each other's output."""
    survey = anatomy.survey
    blocks = [survey.module(path) for path in stage.blocks]
    if any(_inside_csp(survey, path) for path in stage.blocks):
        raise Unfit("it is a cross-stage partial stage already")
    if len(blocks) == 1:
        raise Unfit("the stage has one block only, so nothing could go around it that it does not change")
    runs: list[list[nn.Module]] = []
    for block in blocks:
        if not _keeps(survey, block):
            runs.append([])
        elif runs and runs[-1] and _follows(survey, runs[-1][-1], block):
            runs[-1].append(block)
        else:
            runs.append([block])
    if not any(runs):
        raise Unfit("none of its blocks keeps the shape of its input")
    return [run for run in runs if run]


def _inside_csp(survey: Survey, path: str) -> bool:
    return any(isinstance(survey.module(outer), CSPStage) for outer in outwards(path))


def _keeps(survey: Survey, block: nn.Module) -> bool:
    try:
        value = input_of(survey, block)
    except Unfit:
        return False
    frame = survey.frame(block)
    return frame is not None and frame.output.shape == value.shape


def _follows(survey: Survey, one: nn.Module, two: nn.Module) -> bool:
    """Whether the second block takes the first one's output and nobody else does."""
    first, second = survey.callers.get(one), survey.callers.get(two)
    if first is None or second is None or first[0] is not second[0]:
        return False
    users: list[Node] = list(first[2].users)
    return users == [second[2]]


def _cross_stage(edit: Rewire, value: torch.Tensor, sources: tuple[str, ...]) -> CrossStage:
    axis = channel_axis(value)
    if axis != 1 or value.ndim != 4:
        raise Unfit(f"its blocks take {tuple(value.shape)}, and only maps (N, C, H, W) can be split for a csp stage")
    channels = value.shape[1]
    through = Fraction(str(edit.split)) * channels
    inner = _WIDTHS[edit.rebuild] * channels
    if through.denominator != 1 or not 0 < through < channels:
        raise Unfit(f"{edit.split:g} of {channels} channels is no whole number")
    if inner.denominator != 1:
        raise Unfit(f"half of {channels} channels is no whole number")
    return CrossStage((int(through), int(channels - through)), int(inner), sources)
