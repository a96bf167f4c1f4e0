"""The edit ``rewire``: a stage gets another shape.

``to: csp``: the blocks of a stage that keep the shape (all but the first one of most stages, which halves the map or
changes the channels) become one :class:`~sesurgery.csp.CSPStage` in the place of the first of them; identities keep the
places of the others, so that nothing is renumbered. Where a stage changes its channels half way,
each run of blocks becomes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import child_edit, guarded, input_of, only_place, wanted_facts
from sesurgery.edits.kinds import edit_kind
from sesurgery.edits.to_actions import realise
from sesurgery.errors import Unfit
from sesurgery.operating.actions import Realised
from sesurgery.plans import Edit, Skip, Stage
from sesurgery.recipe.rules import Rewire, Rule
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.substitutes.csp_stage import CSPStage
from sesurgery.substitutes.narrower_block import narrowed, runs_as
from sesurgery.substitutes.registry import Make, maker
from sesurgery.tracing.survey import Survey

_WIDTHS = {"half width": Fraction(1, 2), "same width": Fraction(1)}


@maker("csp")
def _csp(options: Mapping[str, Any], old: nn.Module, *sources: nn.Module) -> nn.Module:
    ratio = Fraction(options["inner"], sum(options["widths"]))
    blocks = [narrowed(block, ratio) for block in (old, *sources)]
    return CSPStage(blocks, (options["widths"][0], options["widths"][1]), options["inner"])


@edit_kind
class RewireKind:
    """Rebuilds stages."""

    action = "rewire"

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """One edit for each run of blocks in a stage that keep the shape, or the reason why there is none."""
        for stage in anatomy.stages:
            if not stage.blocks:
                continue
            place = stage.blocks[0]
            try:
                found = _runs(anatomy, stage)
            except Unfit as reason:
                yield Skip(place, str(reason), str(rule.at))
                continue
            for run in found:
                path = anatomy.survey.paths[run[0]]
                yield from guarded(path, rule, lambda blocks=run: [_rewired(anatomy, rule, blocks)])

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """The stages to put in, and the identities behind them."""
        return realise(anatomy, edits)


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
    found = [run for run in runs if run]
    if not found:
        raise Unfit("none of its blocks keeps the shape of its input")
    return found


def _inside_csp(survey: Survey, path: str) -> bool:
    parts = path.split(".")
    return any(isinstance(survey.module(".".join(parts[:end])), CSPStage) for end in range(len(parts) + 1))


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


def _rewired(anatomy: Anatomy, rule: Rule, blocks: Sequence[nn.Module]) -> Edit:
    survey, edit = anatomy.survey, rule.edit
    assert isinstance(edit, Rewire)
    first, *others = blocks
    path = survey.paths[first]
    value = input_of(survey, first)
    found = wanted_facts(anatomy, rule, path, value, None)
    for block in blocks:
        only_place(survey, block)
        if survey.probe.calls.get(block, 0) > 1:
            raise Unfit("a block is called several times in one forward")
    options = _options(edit, value)
    options["sources"] = [survey.paths[block] for block in others]
    inner = (value.shape[0], options["inner"], *value.shape[2:])
    ratio = Fraction(options["inner"], value.shape[1])
    if ratio != 1:
        for block in blocks:
            runs_as(narrowed(block, ratio), inner)
    note = "fresh 1x1 convolutions lead in and out" if options["inner"] != options["widths"][0] else ""
    cut = "its weights are the first slices of the old ones: train anew" if ratio != 1 else ""
    identities = {survey.paths[block]: Make("identity", {}) for block in others}
    notes = [text for text in (cut, note) if text]
    return child_edit(anatomy, rule, found, path, Make("csp", options), also=identities, notes=notes)


def _options(edit: Rewire, value: torch.Tensor) -> dict[str, Any]:
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
    return {"to": edit.to, "widths": [int(through), int(channels - through)], "inner": int(inner)}
