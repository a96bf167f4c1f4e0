"""Regions: the backbone, the neck and the head of a network, told by the dataflow of the whole forward.

The backbone goes from the input to the deepest map of the encoder. The neck fuses maps of several resolutions, or
enlarges them. The head makes the outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from sesurgery.anatomy.stages import resolution
from sesurgery.anatomy.whole import Step, Whole, enlarges, is_same_batch, places
from sesurgery.recording.channel_axes import is_activation
from sesurgery.recording.compat import AdaptiveAvgPool, AdaptiveMaxPool
from sesurgery.recording.nested import tensors_in
from sesurgery.recording.recorder import Frame
from sesurgery.tracing.survey import Survey

BACKBONE, NECK, HEAD = "backbone", "neck", "head"


@dataclass(frozen=True)
class Regions:
    """The region of every place.

    Attributes:
        end: the block with whose output the backbone ends, or the step where there are no blocks.
        blocks: the region of each block.
    """

    end: nn.Module | Step | None
    blocks: Mapping[nn.Module, str]
    _steps: Mapping[Step, str]
    _whole: Whole

    def at(self, frame: Frame | None, name: str) -> str | None:
        """The region of a node in a recorded call; None where nothing of it lies on the model's dataflow."""
        step = None if frame is None else self._whole.at(frame, name)
        return self._steps.get(step) if isinstance(step, Step) else None

    def of_module(self, frame: Frame | None) -> str | None:
        """The region of a module: that of the last step of its call that somebody reads."""
        steps = [] if frame is None else self._whole.within(frame)
        read = [step for step in steps if step.users or step in self._whole.outputs]
        return next((self._steps[step] for step in read or steps), None)


@dataclass(eq=False)
class _Cell:
    """One call of a block, or one step outside of all blocks."""

    block: nn.Module | None
    steps: list[Step]
    value: torch.Tensor | None
    sources: list[_Cell] = field(default_factory=list)
    users: list[_Cell] = field(default_factory=list)
    maps: list[torch.Tensor] = field(default_factory=list)
    entries: frozenset[object] = frozenset()

    @property
    def weighs(self) -> bool:
        """Whether it runs a layer with a matrix or a kernel."""
        return any(step.weights for step in self.steps)


def regions_of(survey: Survey, whole: Whole, blocks: Sequence[nn.Module], residual: Iterable[nn.Module]) -> Regions:
    """Tell backbone, neck and head.

    Args:
        blocks: none lies in another one.
        residual: those of them that end in a residual sum; what these enlarge inside is their own affair.
    """
    cells = _cells(survey, whole, set(blocks))
    called = [cell for cell in cells if cell.block is not None]
    units = [cell for cell in called if cell.value is not None and (places(cell.value) or not _is_vector(cell))]
    units = units or _layers_that_give_maps(cells)  # the only block may be a head that returns several things
    units = units or [cell for cell in called if cell.value is None]
    if not units:
        return Regions(None, dict.fromkeys(blocks, BACKBONE), dict.fromkeys(whole.steps, HEAD), whole)
    larger = {cell for cell in cells if _enlarges(cell, set(residual))}
    if _is_classifier(survey, whole):
        end, larger = units[-1], set[_Cell]()
        backbone = _upstream([*units, *(cell for cell in cells if not _is_vector(cell))])
    else:
        end, encoder, behind = _encoder(survey, cells, units, larger)
        backbone = _upstream([*encoder[: encoder.index(end)], *_wrapped(whole, cells, end, behind)])
    neck = _neck(survey, whole, cells, backbone, larger)
    named = {cell: BACKBONE if cell in backbone else NECK if cell in neck else HEAD for cell in cells}
    steps = {step: name for cell, name in named.items() for step in cell.steps}
    by_block = {cell.block: name for cell, name in reversed(named.items()) if cell.block is not None}
    by_block = {block: by_block.get(block) or _around(survey, whole, block, steps) for block in blocks}
    return Regions(end.block or end.steps[-1], by_block, steps, whole)


def _around(survey: Survey, whole: Whole, block: nn.Module, steps: Mapping[Step, str]) -> str:
    """The region of a block that only another block calls."""
    frame = survey.frame(block)
    return next((steps[step] for step in whole.within(frame)), HEAD) if frame is not None else HEAD


def _is_classifier(survey: Survey, whole: Whole) -> bool:
    """Whether all that a model returns are vectors, one a sample: (N, classes)."""
    values = [tensor for step in whole.outputs for tensor in tensors_in(step.value)]
    return bool(values) and all(value.ndim <= 2 and value.shape[:1] == (survey.batch,) for value in values)


def _cells(survey: Survey, whole: Whole, blocks: set[nn.Module]) -> list[_Cell]:
    """The forward with each call of a block as one cell, in the order in which they end."""
    of: dict[Step, _Cell] = {}
    calls: dict[int, _Cell] = {}
    cells: dict[_Cell, None] = {}
    for step in whole.steps:
        call = whole.call_of(step, blocks)
        if call is None:
            cell = _Cell(None, [], step.tensor)
        else:
            given = tensors_in(call.output)
            cell = calls.setdefault(id(call), _Cell(call.module, [], given[0] if len(given) == 1 else None))
        cell.steps.append(step)
        of[step] = cell
        cells.pop(cell, None)
        cells[cell] = None
    for cell in cells:
        outer = [source for step in cell.steps for source in step.sources if of[source] is not cell]
        cell.sources = list(dict.fromkeys(of[source] for source in outer))
        cell.maps = [value for source in dict.fromkeys(outer) if (value := source.tensor) is not None and places(value)]
        for source in cell.sources:
            source.users.append(cell)
    return list(cells)


def _is_vector(cell: _Cell) -> bool:
    """Whether a cell gives one vector a sample, one token, or a map of one place."""
    return cell.value is not None and (resolution(cell.value) or 1) == 1


def _layers_that_give_maps(cells: Sequence[_Cell]) -> list[_Cell]:
    """The layers that give a map; what pools it to a fixed size is the head's.

    A map of one place is a small image's where a kernel made it from several places, or where it goes on as one; what
    is made from a pooled map (as within SE) is a vector.
    """
    maps: set[_Cell] = set()
    for cell in cells:
        size = places(cell.value)
        goes_on = any(source in maps and places(source.value) == 1 for source in cell.sources)
        made = cell.weighs and any(places(value) > 1 for value in cell.maps)
        pools = isinstance(cell.steps[0].layer, (AdaptiveAvgPool, AdaptiveMaxPool))
        if not pools and (size > 1 or (size == 1 and (goes_on or made))):
            maps.add(cell)
    return [cell for cell in cells if cell in maps and cell.steps[0].layer is not None]


def _enlarges(cell: _Cell, residual: set[nn.Module]) -> bool:
    """Whether a cell makes maps larger: an interpolation, a block of a decoder, a pooling pyramid."""
    if cell.block is None:
        return enlarges(cell.steps[0])
    return _grows(cell) or (cell.block not in residual and any(map(enlarges, cell.steps)))


def _grows(cell: _Cell) -> bool:
    """Whether a cell gives a larger map than one that it takes."""
    if cell.block is None:
        return enlarges(cell.steps[0])
    gives = places(cell.value)
    return cell.value is not None and any(
        is_same_batch(given, cell.value) and 1.5 * places(given) < gives for given in cell.maps
    )


def _wrapped(whole: Whole, cells: list[_Cell], end: _Cell, behind: set[_Cell]) -> list[_Cell]:
    """The end with what belongs to it: the rest of the module around it that gives a map of the same size (C2f)."""
    strange = {step for cell in behind for step in cell.steps}
    for frame in whole.around(end.steps[-1]):
        members = set(whole.within(frame))
        value = frame.output
        one = isinstance(value, torch.Tensor) and resolution(value) == _depth(end)
        sizes = {places(each) for each in tensors_in(value)}  # of the maps of all stages
        if not members & strange and (one or (len(sizes) > 1 and min(sizes) == _depth(end))):
            return [cell for cell in cells if members & set(cell.steps)]
    return [end]


def _encoder(
    survey: Survey, cells: list[_Cell], units: list[_Cell], larger: set[_Cell]
) -> tuple[_Cell, list[_Cell], set[_Cell]]:
    """The unit where the encoder ends, the units of the encoder, and the cells behind it."""
    units = [unit for unit in units if unit.value is None or survey.batch in (None, unit.value.shape[0])] or units
    queries = _queries(survey, units)
    units = [unit for unit in units if unit not in queries] or units
    deepest = min((size for unit in units if (size := places(unit.value))), default=0)
    first = next((cell for cell in cells if places(cell.value) == deepest), None)
    # What a parallel encoder (HRNet) enlarges on the way down is a part of it.
    larger -= _upstream([first]) if first is not None else set()
    behind: set[_Cell] = set()
    for cell in cells:
        if cell in larger or any(source in behind for source in cell.sources):
            behind.add(cell)
    sizes: dict[nn.Module | None, set[int]] = {}
    for unit in units:
        sizes.setdefault(unit.block, set()).add(places(unit.value))
    # One block for maps of several resolutions is a head's.
    alone = [unit for unit in units if unit.block is None or len(sizes[unit.block]) == 1]
    encoder = [unit for unit in alone if unit not in behind and unit.value is not None] or units
    maps = [unit for unit in encoder if places(unit.value)]
    if maps and min(map(_depth, maps)) <= min(map(_depth, encoder)):
        encoder = maps
    depth = min(map(_depth, encoder))
    deep = [unit for unit in encoder if _depth(unit) == depth]
    # Where ways part at that depth (a lateral layer, a head), it ends before.
    related = {unit: _upstream([unit]) | _downstream([unit]) for unit in deep}
    common = [unit for unit in deep if related[unit].issuperset(deep)]
    return (common or deep)[-1], encoder, behind


def _queries(survey: Survey, units: list[_Cell]) -> set[_Cell]:
    """The blocks of a decoder whose tokens are no places of the input: learned queries that look at it (DETR)."""
    queries: set[_Cell] = set()
    for unit in units:
        frame = None if unit.block is None else survey.frame(unit.block)
        if frame is None or unit.value is None or places(unit.value):
            continue
        alike = [tensor for tensor in tensors_in((frame.args, frame.kwargs)) if tensor.shape == unit.value.shape]
        before = [source for source in unit.sources if _same_shape(source, unit)]
        if (alike and not any(map(is_activation, alike))) or (before and queries.issuperset(before)):
            queries.add(unit)
    return queries


def _same_shape(one: _Cell, two: _Cell) -> bool:
    return one.value is not None and two.value is not None and one.value.shape == two.value.shape


def _depth(cell: _Cell) -> int:
    """Places of what a cell gives, a map or tokens."""
    return (resolution(cell.value) if cell.value is not None else None) or 1 << 60


def _upstream(cells: Iterable[_Cell]) -> set[_Cell]:
    """The cells, and all that they are computed from."""
    return _reached(cells, lambda cell: cell.sources)


def _downstream(cells: Iterable[_Cell]) -> set[_Cell]:
    return _reached(cells, lambda cell: cell.users)


def _reached(cells: Iterable[_Cell], further: object) -> set[_Cell]:
    seen: set[_Cell] = set()
    pending = list(cells)
    while pending:
        cell = pending.pop()
        if cell not in seen:
            seen.add(cell)
            pending.extend(further(cell))  # type: ignore[operator]
    return seen


def _neck(survey: Survey, whole: Whole, cells: list[_Cell], backbone: set[_Cell], larger: set[_Cell]) -> set[_Cell]:
    """What leads to a fusion of several resolutions, and the unit that works on what was fused."""
    fusions = [cell for cell in _fusions(cells, backbone) if _worked_on(cell)]
    fusions = fusions or [cell for cell in cells if cell in larger - backbone and _grows(cell) and _worked_on(cell)]
    neck = _upstream(fusions) - backbone
    inside = {step: cell for cell in cells for step in cell.steps}
    held = {id(frame) for cell in backbone for step in cell.steps for frame in whole.around(step)}
    for fusion in fusions:
        wrap = [frame for frame in whole.around(fusion.steps[-1]) if id(frame) not in held]
        wrap = [frame for frame in wrap if _leaves_work(whole, frame, inside)]
        members = {inside[step] for step in whole.within(wrap[0])} if wrap else {fusion}
        neck |= members - backbone
        if not any(cell.weighs for cell in members & _downstream([fusion])):
            neck |= _unit_behind(survey, whole, members, neck)
    return neck


def _fusions(cells: list[_Cell], backbone: set[_Cell]) -> Iterator[_Cell]:
    """The cells outside of the backbone that bring together maps which were made by different ways of resizing."""
    for cell in cells:
        if cell in backbone:
            cell.entries = frozenset((places(cell.value),))
            continue
        given = [source for source in cell.sources if places(source.value) and _alike(source, cell)]
        if len(cell.maps) == 1 and places(cell.maps[0]) != places(cell.value):
            cell.entries = frozenset((cell,))
        else:
            cell.entries = frozenset().union(*(source.entries for source in cell.sources))
        if len({source.entries for source in given}) > 1 and places(cell.value):
            yield cell


def _alike(source: _Cell, cell: _Cell) -> bool:
    if source.value is None or cell.value is None or not is_same_batch(source.value, cell.value):
        return False
    return cell.block is not None or places(source.value) == places(cell.value)


def _worked_on(cell: _Cell) -> bool:
    """Whether a layer works on what a cell gives."""
    return any(other.weighs for other in _downstream(cell.users))


def _leaves_work(whole: Whole, frame: Frame, inside: Mapping[Step, _Cell]) -> bool:
    """Whether layers are left for the outputs behind a call."""
    members = {inside[step] for step in whole.within(frame)}
    return any(cell.weighs for cell in _downstream(members) - members)


def _unit_behind(survey: Survey, whole: Whole, members: set[_Cell], neck: set[_Cell]) -> set[_Cell]:
    """The one layer or module that works on what was fused; none where several do: those are heads."""
    unit: set[_Cell] = set()
    last = members
    while True:
        users = {user for cell in last for user in cell.users} - last - neck
        calls = {id(call): call for user in users for call in (_outermost(whole, user, members),)}
        if len(calls) != 1:
            return unit
        (call,) = calls.values()
        if isinstance(call, Step):
            layer = call.layer
            more = set(users)
        else:
            layer = call.module
            within = set(whole.within(call))
            more = {cell for cell in _downstream(users) if within & set(cell.steps)}
        shared = layer is not None and survey.probe.calls.get(layer, 1) > 1
        if shared or not any(_worked_on(cell) for cell in more) or not (_downstream(more) - more):
            return unit
        weighed = any(cell.weighs for cell in unit)
        if weighed and any(cell.weighs for cell in more):
            return unit
        unit |= more
        last = more


def _outermost(whole: Whole, cell: _Cell, members: set[_Cell]) -> Frame | Step:
    """The outermost call that holds a cell and none of the others."""
    others = {id(frame) for other in members for frame in whole.around(other.steps[-1])}
    outer = [frame for frame in whole.around(cell.steps[0]) if id(frame) not in others]
    return outer[0] if outer else cell.steps[0]
