"""Which stages, which blocks, which numbers: the little languages of ``--stages`` and of ``where:``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sesurgery.errors import InputError
from sesurgery.words.text import shown

_STAGE_FORMS = 'use a form such as 4, "1,3", 2-4, "2-", -1, last, last2, first, first2 or all'
_BLOCK_FORMS = 'use a form such as 0, "0,2", -1, ":4", "1:3", "::2", first, last2 or all'
_COMPARE_FORMS = 'use a form such as 3, "3,5", "64-256", ">=128", "!=1" or "1x7"'
_ENDS = re.compile(r"(first|last)([0-9]{0,4})")
_RANGE = re.compile(r"([0-9]{1,4})-([0-9]{0,4})")
_SLICE = re.compile(r"(-?[0-9]{1,4})?:(-?[0-9]{1,4})?(?::(-?[0-9]{1,4})?)?")
_INDEX = re.compile(r"-?[0-9]{1,4}")
_SPAN = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_KERNEL = re.compile(r"[0-9]{1,9}(?:x[0-9]{1,9}){0,2}")
_TEST = re.compile(r"(>=|<=|==|!=|>|<|=)([0-9]{1,9})")
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class SiteFacts:
    """What ``where:`` may ask about a site.

    Attributes:
        paths: module paths by which the site may be named: its block, its host, its module, the layer to come.
        types: class names that ``type`` may name: of the block, the host, and every module around; where the rule is
            about modules, of the module alone.
        around: class names of the modules around the site, the model itself left out.
        stage, stages: number of the stage in its region, from 1 (None: outside all), and how many there are.
        region: ``backbone``, ``neck`` or ``head``.
        block, blocks: index of the block within its stage, from 0, and how many blocks that stage has.
        plain: whether the whole model has no block.
        channels: channels at the site.
        kernel, stride: of the convolution at the site, else of its block; per axis where they differ.
        has: words that hold for the block; for a site outside all blocks, for its host with all of its children.
    """

    paths: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    stage: int | None = None
    stages: int = 0
    region: str = "backbone"
    block: int | None = None
    blocks: int = 0
    plain: bool = False
    channels: int | None = None
    kernel: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    has: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Compare:
    """A condition on a number (or on one number per axis); call it to test. ``text`` is its canonical spelling.

    Plain numbers and ranges are alternatives; comparisons with a sign must all hold. A value with several axes must
    satisfy a comparison on each of them.
    """

    text: str
    exact: tuple[tuple[int, ...], ...] = field(default=(), compare=False)
    spans: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    signs: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    def __call__(self, value: int | tuple[int, ...] | None) -> bool:
        """Whether ``value`` satisfies the condition; an unknown value (None) does not."""
        axes = (value,) if isinstance(value, int) else tuple(value or ())
        if not axes:
            return False
        if self.exact or self.spans:
            alike = any(axes == shape or (len(shape) == 1 and set(axes) == set(shape)) for shape in self.exact)
            if not alike and not any(all(low <= axis <= high for axis in axes) for low, high in self.spans):
                return False
        return all(_OPERATORS[sign](axis, bound) for sign, bound in self.signs for axis in axes)


def parse_stages(text: str | int | list[Any], count: int) -> frozenset[int]:
    """Stage numbers (from 1) that ``text`` selects in a model with ``count`` stages.

    Raises:
        InputError: a form that is none, or a stage that the model does not have (naming those it has).
    """
    chosen: set[int] = set()
    for part in _parts(text, "stages", _STAGE_FORMS):
        chosen |= _stage_part(part, count)
    return frozenset(chosen)


def check_stages_syntax(text: str | int | list[Any]) -> str:
    """The canonical spelling of ``text``, checked without knowing the model. Raises ``InputError``."""
    parts = _parts(text, "stages", _STAGE_FORMS)
    for part in parts:
        match = _RANGE.fullmatch(part)
        ends = _ENDS.fullmatch(part)
        well_formed = part == "all" or match or ends or _INDEX.fullmatch(part)
        zero = (match and int(match[1]) == 0) or (ends and ends[2] and int(ends[2]) == 0) or part.strip("-0") == ""
        if not well_formed:
            raise InputError(f'"{shown(part)}" selects no stages', where="stages", remedy=_STAGE_FORMS)
        if zero:
            raise InputError(f'"{shown(part)}" selects no stages', where="stages", remedy="stages count from 1")
        if match and match[2] and int(match[2]) < int(match[1]):
            remedy = f"write {match[2]}-{match[1]}"
            raise InputError(f'"{shown(part)}" runs backwards', where="stages", remedy=remedy)
    return ",".join(parts)


def parse_blocks(text: str | int | list[Any]) -> str:
    """The canonical spelling of a selection of blocks within a stage. Raises ``InputError``."""
    parts = _parts(text, "blocks", _BLOCK_FORMS)
    for part in parts:
        match = _SLICE.fullmatch(part)
        ends = _ENDS.fullmatch(part)
        if not (part == "all" or match or _INDEX.fullmatch(part) or ends):
            raise InputError(f'"{shown(part)}" selects no blocks', where="blocks", remedy=_BLOCK_FORMS)
        if (match and match[3] and int(match[3]) == 0) or (ends and ends[2] and int(ends[2]) == 0):
            remedy = 'every second block is "::2"'
            raise InputError(f'"{shown(part)}" selects no blocks', where="blocks", remedy=remedy)
    return ",".join(parts)


def select_blocks(text: str | int | list[Any], n: int) -> frozenset[int]:
    """Indices (from 0) that ``text`` selects among ``n`` blocks; as with Python's slices, missing ones are left out."""
    chosen: set[int] = set()
    for part in parse_blocks(text).split(","):
        chosen |= _block_part(part, n)
    return frozenset(chosen)


def parse_compare(value: str | int | list[Any], where: str = "channels") -> Compare:
    """Understand a condition on a number: ``3``, ``"3,5"``, ``"64-256"``, ``">=128"``, ``"!=1"``, ``"1x7"``.

    Raises:
        InputError: a form that is none.
    """
    parts = [part.replace("\u00d7", "x") for part in _parts(value, where, _COMPARE_FORMS)]
    exact: list[tuple[int, ...]] = []
    spans: list[tuple[int, int]] = []
    signs: list[tuple[str, int]] = []
    for part in parts:
        if match := _TEST.fullmatch(part):
            signs.append((match[1], int(match[2])))
        elif match := _SPAN.fullmatch(part):
            spans.append((int(match[1]), int(match[2])))
        elif _KERNEL.fullmatch(part):
            exact.append(tuple(int(axis) for axis in part.split("x")))
        else:
            raise InputError(f'"{shown(part)}" is no condition on a number', where=where, remedy=_COMPARE_FORMS)
        if spans and spans[-1][0] > spans[-1][1]:
            raise InputError(f'"{shown(part)}" runs backwards', where=where, remedy=_COMPARE_FORMS)
    return Compare(",".join(parts), tuple(exact), tuple(spans), tuple(signs))


def _parts(value: object, where: str, forms: str) -> list[str]:
    items: list[object] = list(value) if isinstance(value, (list, tuple)) else [value]
    texts = [_text(item, where, forms) for item in items]
    parts = ["".join(part.split()).lower() for part in ",".join(texts).split(",")]
    if not items or not all(parts) or len(parts) > 1000:
        raise InputError(f'"{shown(",".join(texts))}" selects nothing', where=where, remedy=forms)
    return parts


def _text(item: object, where: str, forms: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, bool) or not isinstance(item, int):
        given = "bool" if isinstance(item, bool) else shown(item)
        raise InputError(f"{given} is neither a number nor text", where=where, remedy=forms)
    if abs(item) >= 10**9:
        raise InputError("a number with more than nine digits", where=where, remedy=forms)
    return str(item)


def _stage_part(part: str, count: int) -> set[int]:
    check_stages_syntax(part)
    if part == "all":
        return set(range(1, count + 1))
    if match := _ENDS.fullmatch(part):
        size = int(match[2] or 1)
        first, last = (1, size) if match[1] == "first" else (count - size + 1, count)
    elif match := _RANGE.fullmatch(part):
        first, last = int(match[1]), int(match[2] or count)
    else:
        number = int(part)
        first = last = number if number > 0 else count + 1 + number
    if first < 1 or last > count or first > last:
        span = {0: "no stages", 1: "one stage, 1"}.get(count, f"stages 1-{count}")
        raise InputError(f'stage "{part}" is out of range', where="stages", remedy=f"this model has {span}")
    return set(range(first, last + 1))


def _block_part(part: str, n: int) -> set[int]:
    everything = range(n)
    if part == "all":
        return set(everything)
    if match := _ENDS.fullmatch(part):
        size = int(match[2] or 1)
        return set(everything[:size] if match[1] == "first" else everything[max(n - size, 0) :])
    if match := _SLICE.fullmatch(part):
        start, stop, step = (int(number) if number else None for number in match.groups())
        return set(everything[start:stop:step])
    index = int(part)
    index = index + n if index < 0 else index
    return {index} if 0 <= index < n else set()
