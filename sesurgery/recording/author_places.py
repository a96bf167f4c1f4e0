"""Where in its author's source an operation stands: the innermost running method of its host, and its instruction."""

from __future__ import annotations

import functools
import traceback
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from operator import is_
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgery.words.text import reason

_NOT_THE_AUTHORS = tuple(f"{folder}/" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


def reason_in_line(error: BaseException) -> str:
    """``RuntimeError: the first line (line 12 of net.py)``: the innermost line that its author wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_AUTHORS)]
    return f"{reason(error)} (line {lines[-1].lineno} of {Path(lines[-1].filename).name})" if lines else reason(error)


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction of the author's code.

    Attributes:
        code: the code object that runs it: a method of the host, or a function, lambda or comprehension in one.
        instruction: offset of the instruction (``f_lasti``).
    """

    code: types.CodeType
    instruction: int

    @property
    def span(self) -> tuple[int, int, int, int] | None:
        """Line, column, end line and end column (in bytes) of the instruction's expression; None where unknown."""
        line, end_line, column, end_column = _positions(self.code)[self.instruction // 2]
        if line is None or end_line is None or column is None or end_column is None:
            return None
        return line, column, end_line, end_column

    def __str__(self) -> str:
        line = _positions(self.code)[self.instruction // 2][0] or self.code.co_firstlineno
        return f"line {line} of {self.code.co_filename.rsplit('/', 1)[-1]}"

    def __eq__(self, other: object) -> bool:
        # Code objects compare by value, which takes long and says two equal methods are one.
        return isinstance(other, Place) and self.code is other.code and self.instruction == other.instruction

    def __hash__(self) -> int:
        return hash((id(self.code), self.instruction))


@functools.lru_cache(maxsize=4096)
def _positions_of(identity: int, code: types.CodeType) -> list[tuple[int | None, int | None, int | None, int | None]]:
    return list(code.co_positions())


def _positions(code: types.CodeType) -> list[tuple[int | None, int | None, int | None, int | None]]:
    return _positions_of(id(code), code)


def place_in(running: types.FrameType | None, end: types.CodeType, own: dict[int, types.CodeType]) -> Place | None:
    """The innermost running method of a host below the frame of ``end``; None where its author's code does not run.

    Args:
        running: the innermost frame.
        end: the code whose frame began the host's call.
        own: the host's own code, by identity, as :func:`own_code` gives it.
    """
    while running is not None:
        code = running.f_code
        if code is end:
            return None
        if id(code) in own:
            return Place(code, running.f_lasti)
        running = running.f_back
    return None


def own_code(module: nn.Module) -> dict[int, types.CodeType]:
    """The code objects of a module's methods, inherited ones included, by identity; torch's own are left out.

    A static method knows no module that it could call: what it does is done where it is called.
    """
    known = _code_of_class(type(module))
    forward = module.__dict__.get("forward")
    if forward is None:
        return known
    return {**known, **{id(code): code for each in _functions_in(forward) for code in nested_code(each.__code__)}}


_LOOSE = (staticmethod, classmethod)
# Weak: an operated class goes with the last model that is of it. With what the class held, which may be changed.
_CODE: weakref.WeakKeyDictionary[type, tuple[list[Any], dict[int, types.CodeType]]] = weakref.WeakKeyDictionary()


def _code_of_class(kind: type) -> dict[int, types.CodeType]:
    attributes = [value for base in _authors(kind) for value in vars(base).values()]
    held, known = _CODE.get(kind, ([], {}))
    if len(held) != len(attributes) or not all(map(is_, held, attributes)):
        loose = {each for value in attributes if isinstance(value, _LOOSE) for each in _functions_in(value)}
        methods = (function for function in functions_of(kind) if function not in loose)
        known = {id(code): code for function in methods for code in nested_code(function.__code__)}
        _CODE[kind] = attributes, known
    return known


def _authors(kind: type) -> list[type]:
    """A class and its bases but for torch's, of which all modules are."""
    return [base for base in kind.__mro__ if base is not nn.Module and base is not object]


def functions_of(kind: type) -> tuple[types.FunctionType, ...]:
    """The functions of a class and its bases, with what their decorators wrap; torch's own are left out."""
    functions: dict[int, types.FunctionType] = {}
    for base in _authors(kind):
        functions.update((id(each), each) for value in vars(base).values() for each in _functions_in(value))
    return tuple(functions.values())


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """A function with those that it wraps (decorators)."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (staticmethod, classmethod, types.MethodType)):
            pending.append(item.__func__)
        elif isinstance(item, property):
            pending += [item.fget, item.fset]
        elif hasattr(type(item), "__get__") and not isinstance(item, types.FunctionType):
            parts = getattr(item, "__dict__", {}).values()  # a partialmethod, a decorator that is a class
            pending += [part for part in parts if isinstance(part, types.FunctionType)]
        elif isinstance(item, types.FunctionType):
            yield item
            pending += [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
            pending.append(getattr(item, "__wrapped__", None))


def nested_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions and comprehensions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_code(constant)


def _filled(cell: types.CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, types.FunctionType)
    except ValueError:
        return False
