"""What modules hold in their attributes: noted before a forward, compared and put back after it."""

from __future__ import annotations

import contextlib
import dis
import functools
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import nn

from sesurgery.recording.author_places import functions_of, nested_code
from sesurgery.recording.compat import FORWARD_HOOKS

TABLES = frozenset(("_parameters", "_buffers", "_modules"))
_HOOKS = frozenset(nn.Module().__dict__) - TABLES - {"training"}
_ABSENT = object()
_SETS = dis.opmap["STORE_GLOBAL"]
_BOXES = (list, OrderedDict, dict, set, deque)


@dataclass(frozen=True)
class Change:
    """An attribute that was set, or a list, dict or set in one that was filled or emptied.

    Attributes:
        module, name: whose attribute.
        now, before: what the list, dict or set holds; None where the attribute itself was set.
    """

    module: nn.Module
    name: str
    now: Any = None
    before: Any = None


class Attributes:
    """The attributes of some modules as they are now, with the contents of lists, dicts and sets among them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._held = [(module, dict(module.__dict__)) for module in modules]
        self._boxes = [
            (module, name, box, _contents(box))
            for module, attributes in self._held
            for name in attributes.keys() - _HOOKS
            if isinstance(box := attributes[name], _BOXES)
        ]
        # A forward may put hooks on its own parts (transformers does, to collect hidden states).
        tables = (attributes.get(name) for _, attributes in self._held for name in FORWARD_HOOKS[:2])
        self._hooks = [(table, dict(table)) for table in tables if table is not None]

    def changes(self) -> Iterator[Change]:
        """What is, or holds, something else now."""
        for module, attributes in self._held:
            now = module.__dict__
            if not _same(now, attributes):
                for name in {**attributes, **now}:
                    if now.get(name, _ABSENT) is not attributes.get(name, _ABSENT):
                        yield Change(module, name)
        for module, name, box, old in self._boxes:
            if not _same(box, old):
                yield Change(module, name, box, old)

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in self._held:
            _put_back(module.__dict__, attributes)
        for _, _, box, old in self._boxes:
            _put_back(box, old)
        for table, old in self._hooks:
            _put_back(table, old)


@contextlib.contextmanager
def kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Whatever happens meanwhile, the modules hold the same objects afterwards (not the same numbers in tensors)."""
    before = Attributes(modules)
    try:
        yield
    finally:
        before.restore()


# Asked by the methods of the builtin type: a subclass may build what is read, or refuse to be written to.
def _builtin(box: Any) -> Any:
    return type(box) if type(box) in _BOXES else next(kind for kind in _BOXES if isinstance(box, kind))


def _contents(box: Any) -> Any:
    kind = _builtin(box)
    return dict(kind.items(box)) if isinstance(box, dict) else list(kind.__iter__(box))


def _same(box: Any, old: Any) -> bool:
    kind = _builtin(box)
    if kind.__len__(box) != len(old):
        return False
    if isinstance(box, dict):
        return all(map(is_, kind.values(box), old.values())) and list(kind.__iter__(box)) == list(old)
    return all(map(is_, kind.__iter__(box), old))


def _put_back(box: Any, old: Any) -> None:
    if _same(box, old):
        return
    kind = _builtin(box)
    kind.clear(box)
    if kind is dict:
        dict.update(box, old)
    elif isinstance(box, dict):
        for key, value in old.items():
            kind.__setitem__(box, key, value)
    else:
        (kind.update if kind is set else kind.extend)(box, old)


@contextlib.contextmanager
def undisturbed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Whatever a forward draws, collects or counts meanwhile, afterwards all is as it was.

    Kept are the random states of torch (CPU), Python and NumPy, the contents of lists, dicts, sets and deques that
    the code of the modules' classes and hooks reaches (module-level ones, class attributes, defaults, closures), the
    attributes of these classes, and the module-level names that this code sets.
    """
    states = torch.get_rng_state(), random.getstate()
    numpy: Any = sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state()
    modules = list(modules)
    kinds = _authors_classes({type(module) for module in modules})
    functions = _with_helpers([*_hooks_of(modules), *(each for kind in kinds for each in functions_of(kind))])
    boxes = [(box, _contents(box)) for box in _reachable(kinds, functions)]
    names = [(space, name, space[name]) for space, name in _set_by(functions)]
    attributes = [(kind, dict(vars(kind))) for kind in kinds]
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy is not None:
            numpy.random.set_state(drawn)
        for box, contents in boxes:
            _put_back(box, contents)
        for space, name, value in names:
            space[name] = value
        for kind, old in attributes:
            _put_back_attributes(kind, old)


def _authors_classes(kinds: Iterable[type]) -> list[type]:
    """Some classes and their bases; torch's own are left out."""
    bases = dict.fromkeys(base for kind in kinds for base in kind.__mro__)
    return [base for base in bases if base is not object and not base.__module__.startswith("torch.")]


def _put_back_attributes(kind: type, old: dict[str, Any]) -> None:
    now = dict(vars(kind))
    for name in {**old, **now}:
        if not name.startswith(("__", "_abc_")) and now.get(name, _ABSENT) is not old.get(name, _ABSENT):
            if name in old:
                type.__setattr__(kind, name, old[name])
            else:
                type.__delattr__(kind, name)


def _with_helpers(functions: list[types.FunctionType]) -> list[types.FunctionType]:
    """Some functions, and those of their own files that they name."""
    known = {id(function): function for function in functions}
    pending = list(functions)
    while pending:
        function = pending.pop()
        space = function.__globals__
        for name in _names_in(function.__code__):
            helper = space.get(name)
            if isinstance(helper, types.FunctionType) and helper.__globals__ is space and id(helper) not in known:
                known[id(helper)] = helper
                pending.append(helper)
    return list(known.values())


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in nested_code(code) for name in each.co_names))


@functools.lru_cache(maxsize=4096)
def _names_set_by(code: types.CodeType) -> tuple[str, ...]:
    """The names of those functions in ``code`` that set module-level ones."""
    return tuple(name for each in nested_code(code) if _SETS in each.co_code[::2] for name in each.co_names)


def _set_by(functions: Iterable[types.FunctionType]) -> Iterator[tuple[dict[str, Any], str]]:
    """The module-level names that functions may set, with the modules' dicts."""
    for function in functions:
        space = function.__globals__
        yield from ((space, name) for name in _names_set_by(function.__code__) if name in space)


def _hooks_of(modules: Iterable[nn.Module]) -> Iterator[types.FunctionType]:
    """The functions that modules call around their forwards."""
    for module in modules:
        for table in map(module.__dict__.get, FORWARD_HOOKS[:2]):
            for hook in (table or {}).values():
                function = getattr(hook, "__func__", hook)
                if isinstance(function, types.FunctionType):
                    yield function


def _reachable(kinds: Iterable[type], functions: Iterable[types.FunctionType]) -> list[Any]:
    """The containers that some classes hold, and that some functions may write into."""
    boxes: dict[int, Any] = {}
    for kind in kinds:
        values = [value for name, value in vars(kind).items() if not name.startswith("__")]
        boxes.update((id(value), value) for value in values if isinstance(value, _BOXES))
    for function in functions:
        boxes.update((id(value), value) for value in _held_by(function) if isinstance(value, _BOXES))
    return list(boxes.values())


def _held_by(function: types.FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is empty yet
            yield cell.cell_contents
    space = function.__globals__
    yield from (space[name] for name in _names_in(function.__code__) if name in space)
