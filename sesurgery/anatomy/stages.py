"""Stages: what shares one resolution of the maps, numbered from 1 in the order of execution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt

import torch
from torch import nn

from sesurgery.anatomy.layer_kinds import is_conv
from sesurgery.plans import Stage
from sesurgery.recording.channel_axes import channel_axis, rows_of_a_sample
from sesurgery.tracing.survey import Survey


@dataclass(frozen=True)
class Unit:
    """What stages are made of: a block, or in a network without blocks a merge or a convolution.

    Attributes:
        value: what it gives.
        region: where it lies.
        dilation: the largest of its convolutions.
        block: the block that it is.
    """

    value: torch.Tensor
    region: str
    dilation: int = 1
    block: nn.Module | None = None


@dataclass
class _Members:
    """The units of one stage so far. Where ``width`` grows and dilation with it, stride was given up: a new stage."""

    places: int
    width: int | None
    dilation: int
    units: list[Unit]

    def takes(self, places: int, unit: Unit) -> bool:
        if self.places != places and not _with_prefix(self.places, places):
            return False
        return self.width == width(unit.value) or unit.dilation <= self.dilation


def dilation_of(modules: Iterable[nn.Module]) -> int:
    """The largest dilation of the convolutions among modules; 1 where there is none."""
    return max((max(module.dilation) for module in modules if is_conv(module)), default=1)  # type: ignore[arg-type, union-attr]


def width(value: torch.Tensor) -> int | None:
    """Channels of an activation."""
    axis = channel_axis(value)
    return None if axis is None else value.shape[axis]


def space(value: torch.Tensor) -> list[int]:
    """Sizes of every axis but the batch and the channels."""
    axis = channel_axis(value)
    return [size for index, size in enumerate(value.shape) if index not in (0, axis)]


def resolution(value: torch.Tensor) -> int | None:
    """Number of places of an activation: height times width of a map, length of a sequence.

    Tokens of several windows of a map, which lie beside the samples, count together.
    """
    axis = channel_axis(value)
    if axis is None or value.ndim < 3:
        return None
    sizes = space(value)
    windows = rows_of_a_sample(value) if axis == value.ndim - 1 else 1
    return sizes[-1] * sizes[-2] if len(sizes) >= 2 else sizes[0] * windows


def stages_of(survey: Survey, units: Iterable[Unit], region: str) -> tuple[dict[nn.Module, int], tuple[Stage, ...]]:
    """The stages of a region's units in the order of execution, and the number of each block."""
    groups: list[_Members] = []
    for run in _runs(units):
        places, dilation = resolution(run[0].value), max(unit.dilation for unit in run)
        if places is None or (places == 1 and run[0].value.ndim < 4):
            continue
        first = Unit(run[0].value, run[0].region, dilation)
        group = next((group for group in reversed(groups) if group.takes(places, first)), None)
        if group is None:
            groups.append(_Members(places, width(first.value), dilation, run))
        else:
            group.units += run
            group.width, group.dilation = width(first.value), max(dilation, group.dilation)
    numbered: dict[nn.Module, int] = {}
    stages: list[Stage] = []
    for index, group in enumerate(groups, start=1):
        blocks = [unit.block for unit in group.units if unit.block is not None]
        numbered.update(dict.fromkeys(blocks, index))
        height, width_ = _height_width(group.units[0].value, group.places)
        reduction = round((survey.input_area / group.places) ** 0.5, 2) if survey.input_area else None
        stages.append(Stage(index, reduction, height, width_, tuple(survey.paths[block] for block in blocks), region))
    return numbered, tuple(stages)


def _runs(units: Iterable[Unit]) -> list[list[Unit]]:
    """Units one behind the other that have one resolution and one width."""
    runs: list[list[Unit]] = []
    for unit in units:
        if runs and (resolution(unit.value), width(unit.value)) == (
            resolution(runs[-1][0].value),
            width(runs[-1][0].value),
        ):
            runs[-1].append(unit)
        else:
            runs.append([unit])
    return runs


def _with_prefix(one: int, two: int) -> bool:
    """Whether two token counts differ by a class token or a few registers only."""
    low, high = sorted((one, two))
    return isqrt(low) ** 2 == low and 0 < high - low <= 8 and low > 64


def _height_width(value: torch.Tensor, places: int) -> tuple[int | None, int | None]:
    sizes = space(value)
    if len(sizes) >= 2:
        return sizes[-2], sizes[-1]
    side = next((isqrt(places - extra) for extra in range(9) if isqrt(places - extra) ** 2 == places - extra), None)
    return side, side
