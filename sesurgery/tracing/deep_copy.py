"""Deep copies of models: what ``copy.deepcopy`` gives, without its detours, with functions that are the copy's own."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from operator import is_
from typing import Any

import torch
from torch import nn

from sesurgery.recording.compat import FORWARD_HOOKS, modules_in
from sesurgery.recording.module_state import TABLES

_ATOMS = frozenset((type(None), bool, int, float, str, torch.Size, torch.dtype))
_CONTAINERS = frozenset((OrderedDict, dict, list, set))
_FILLED = (nn.Module, torch.Tensor, dict, list, set, deque)


def deep_copy(model: nn.Module, memo: dict[int, Any], plain: Callable[[type[nn.Module]], bool]) -> nn.Module:
    """A deep copy. Most of the state of plain modules is names and numbers, over which ``copy.deepcopy`` takes long.

    What a forward computed and left in an attribute (a pruned weight, one that ``weight_norm`` makes), of which torch
    makes no deep copy, is copied without its history.

    Args:
        memo: what is copied already, by the ``id`` of the original; what is copied is added.
        plain: which classes are taken for plain, as :func:`is_plain` takes them.
    """
    modules = modules_in(model)
    for value in (value for module in modules for value in module.__dict__.values()):
        if isinstance(value, torch.Tensor) and value.grad_fn is not None and id(value) not in memo:
            memo[id(value)] = value.detach().clone()
    chosen = [module for module in modules if plain(type(module))]
    memo.update((id(module), type(module).__new__(type(module))) for module in chosen)
    for module in reversed(chosen):  # what is inside first
        _copy_state(module, memo[id(module)], memo)
    return copy.deepcopy(model, memo)


def is_plain(kind: type[nn.Module]) -> bool:
    """Whether a deep copy of such a module is a new object with copies of its state, for want of another way."""
    special = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    usual = ("__new__", "__reduce__", "__reduce_ex__")
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        return False
    return not any(hasattr(kind, name) for name in special) and all(
        getattr(kind, name) is getattr(object, name) for name in usual
    )


def _copy_state(module: nn.Module, new: nn.Module, memo: dict[int, Any]) -> None:
    state = module.__getstate__()
    if type(module).__getstate__ is not nn.Module.__getstate__:  # it may be the attributes themselves, or no dict
        new.__setstate__(copy.deepcopy(state, memo))
        return
    copied: dict[str, Any] = {}
    for name, value in state.items():
        of_tensors = name in TABLES
        copied[name] = {key: _copied(item, memo) for key, item in value.items()} if of_tensors else _copied(value, memo)
    new.__setstate__(copied)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _ATOMS or (type(value) is tuple and all(type(item) in _ATOMS for item in value)):
        return value
    known = memo.get(id(value))
    if known is None and type(value) in _CONTAINERS and not value:
        known = memo[id(value)] = type(value)()
    return copy.deepcopy(value, memo) if known is None else known


def own_functions(model: nn.Module, copied: nn.Module, memo: dict[int, Any], boxes: bool = True) -> nn.Module:
    """Let the functions of a deep copy, its hooks and the forwards set on instances, run and fill what is the copy's.

    A method or a ``partial`` of one was copied with its object; a function is not copied at all.

    Args:
        model: the original.
        memo: what the deep copy remembers.
        boxes: the lists, dicts and sets that they fill are copied too.
    """
    taken_over = {id(value) for table in _tables(model) for value in table.values()}
    for table in _tables(copied):
        for key, value in table.items():
            if isinstance(value, types.FunctionType) and id(value) in taken_over:
                table[key] = _own(value, memo, boxes)
    return copied


def _tables(model: nn.Module) -> Iterator[dict[Any, Any]]:
    """The attributes and the forward hooks of each module."""
    for module in modules_in(model):
        yield module.__dict__
        yield from (module.__dict__.get(name, {}) for name in FORWARD_HOOKS[:2])


def _own(value: Any, memo: dict[int, Any], boxes: bool) -> Any:
    """``value`` with what was copied in the place of what it closes over."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.MethodType):
        owner = _own(value.__self__, memo, boxes)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if not isinstance(value, types.FunctionType):
        return copy.deepcopy(value, memo) if boxes and isinstance(value, _FILLED) else value
    memo[id(value)] = value  # it may close over itself
    held = (*(value.__closure__ or ()), *(value.__defaults__ or ()))
    own = tuple((_own_cell if isinstance(each, types.CellType) else _own)(each, memo, boxes) for each in held)
    if not all(map(is_, own, held)):
        cells, defaults = own[: len(value.__closure__ or ())], own[len(value.__closure__ or ()) :]
        new = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults or None, cells)
        for name in (*functools.WRAPPER_ASSIGNMENTS, "__kwdefaults__"):
            setattr(new, name, getattr(value, name))
        new.__dict__.update({name: id(new) if part == id(value) else part for name, part in value.__dict__.items()})
        memo[id(value)] = new
    return memo[id(value)]


def _own_cell(cell: types.CellType, memo: dict[int, Any], boxes: bool) -> types.CellType:
    if id(cell) not in memo:
        memo[id(cell)] = cell
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            content = _own(cell.cell_contents, memo, boxes)
            if content is not cell.cell_contents:
                memo[id(cell)] = types.CellType(content)
    return memo[id(cell)]
