"""The size of one sample, as people write it. Imports no torch, so that the command line can check it at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from sesurgery.errors import InputError
from sesurgery.words.text import shown

Shape = tuple[int, ...]
MAX_ELEMENTS = 10**9
_REMEDY = "write C,H,W such as 3,224,224, or H,W such as 192,256, or one number such as 224"
_CHANNELS = 4  # no map is so low: "3,224" has forgotten a number


def read_input_size(size: Sequence[int] | str, where: str = "input_size") -> Shape:
    """The size of one sample, without the batch axis: ``(3, 224, 224)``.

    Args:
        size: numbers, taken as they stand: (C, H, W), (C, T, H, W), (L, C) or (L,). Or text: ``"3,224,224"`` (also
            ``"3x224x224"``), ``"192,256"`` for a height and a width of three channels, ``"224"`` for both.

    Raises:
        InputError: not numbers, not positive, or more than 1e9 elements; or text of two numbers, the first of which
            must be a number of channels.
    """
    numbers = _numbers(size, where) if isinstance(size, str) else tuple(size)
    where = f"{where} {','.join(shown(number) for number in numbers) or '()'}"
    if not numbers or any(not isinstance(n, int) or isinstance(n, bool) or n <= 0 for n in numbers):
        raise InputError("every number must be a whole number above 0", where=where, remedy=_REMEDY)
    if isinstance(size, str):
        numbers = _image(numbers, where)
    if prod(numbers) > MAX_ELEMENTS:
        raise InputError(f"more than {MAX_ELEMENTS:,} elements", where=where, remedy=_REMEDY)
    return numbers


def _image(numbers: Shape, where: str) -> Shape:
    """What one or two numbers leave out: the channels, and a width that is the height."""
    height, width = (numbers * 2)[:2]
    if len(numbers) == 2 and height <= _CHANNELS:
        problem = f"two numbers are height and width, and {height} is no height"
        meant = _REMEDY.replace("3,224,224", f"{height},{width},{width}")
        raise InputError(problem, where=where, remedy=f"{meant}; in Python, a tuple is taken as it stands")
    return numbers if len(numbers) > 2 else (3, height, width)


def _numbers(text: str, where: str) -> Shape:
    parts = [part.strip() for part in text.lower().replace("x", ",").split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 10 for part in parts):
        problem = "must be whole positive numbers with commas between them"
        raise InputError(problem, where=f'{where} "{shown(text)}"', remedy=_REMEDY)
    return tuple(int(part) for part in parts)
