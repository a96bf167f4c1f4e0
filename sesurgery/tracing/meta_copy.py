"""A private, weightless copy of a model: the body on which everything is looked at and tried first.

The copy lies on the ``meta`` device, so it costs no memory and no arithmetic, and whatever planning does to it
(modes, classes, hooks) never reaches the model it was taken from.
"""

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
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from sesurgery.errors import ModelError
from sesurgery.recording.compat import BACKWARD_HOOKS, FORWARD_HOOKS, modules_in, paths_in, weights_in
from sesurgery.recording.module_state import TABLES
from sesurgery.recording.nested import map_tensors
from sesurgery.words.text import reason

_ATOMS = frozenset((type(None), bool, int, float, str, torch.Size, torch.dtype))
_CONTAINERS = frozenset((OrderedDict, dict, list, set))
_FILLED = (nn.Module, torch.Tensor, dict, list, set, deque)


def twin_of(model: nn.Module, hooks: bool = False) -> nn.Module:
    """Copy ``model`` onto ``meta``: same classes, attributes, sharing and modes; no weights, no hooks.

    Args:
        hooks: the copy has hooks of its own around forwards, for a model that needs them to run.

    Raises:
        ModelError: an attribute of the model refuses to be copied, or a part of it is scripted.
    """
    _refuse_scripts(model)
    try:
        try:
            return _twin(model, hooks, _is_plain)
        except Exception:  # a way of copying of its own, which wants numbers
            return _twin(model, hooks, lambda kind: not issubclass(kind, GraphModule))
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {reason(error)}",
            where=type(model).__name__,
            remedy="keep what cannot be copied (locks, files, generators) outside the module",
        ) from error


def _twin(model: nn.Module, hooks: bool, plain: Callable[[type[nn.Module]], bool]) -> nn.Module:
    memo: dict[int, Any] = {}
    for tensor in weights_in(model):
        memo[id(tensor)] = _weightless(tensor)
    modules = modules_in(model)
    for module in modules:
        for name in BACKWARD_HOOKS if hooks else (*FORWARD_HOOKS, *BACKWARD_HOOKS):
            table = module.__dict__.get(name)
            if table is not None:
                memo[id(table)] = type(table)()
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:  # a pruned weight: torch copies no such
                memo[id(value)] = _weightless(value)
        if plain(type(module)):
            memo[id(module)] = type(module).__new__(type(module))
    with _TensorsToMeta():
        for module in reversed(modules):  # what is inside first
            if id(module) in memo:
                _copy_state(module, memo[id(module)], memo)
        return own_functions(model, copy.deepcopy(model, memo), memo)


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


def hooks_on(model: nn.Module) -> list[str]:
    """The forward hooks of a model: where each is, and what it is called."""
    return [
        f"{path or 'the model'} ({getattr(hook, '__qualname__', None) or type(hook).__name__})"
        for path, module in model.named_modules()
        for name in FORWARD_HOOKS[:2]
        for hook in module.__dict__[name].values()
    ]


def _refuse_scripts(model: nn.Module) -> None:
    for module, path in paths_in(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path or 'it'} is a ScriptModule, which has no Python forward and takes no hooks",
                where=type(model).__name__,
                remedy="operate first, then torch.jit.trace the result",
            )


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether a deep copy of such a module is a new object with copies of its state, for want of another way."""
    special = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    usual = ("__new__", "__reduce__", "__reduce_ex__")
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        return False
    return not any(hasattr(kind, name) for name in special) and all(
        getattr(kind, name) is getattr(object, name) for name in usual
    )


def _copy_state(module: nn.Module, new: nn.Module, memo: dict[int, Any]) -> None:
    """What ``copy.deepcopy`` does to a plain module, without its detours: most of the state is names and numbers."""
    state = module.__getstate__()
    for name, value in state.items():
        state[name] = (
            {key: _copied(item, memo) for key, item in value.items()} if name in TABLES else _copied(value, memo)
        )
    new.__setstate__(state)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _ATOMS or (type(value) is tuple and all(type(item) in _ATOMS for item in value)):
        return value
    known = memo.get(id(value))
    if known is None and type(value) in _CONTAINERS and not value:
        known = memo[id(value)] = type(value)()
    return copy.deepcopy(value, memo) if known is None else known


def to_meta(value: Any) -> Any:
    """A nested value with every tensor in it moved to ``meta`` (shape, dtype and strides kept)."""
    return map_tensors(lambda tensor: tensor.to("meta"), value)


def _weightless(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        raise ModelError("a lazy module has no shape yet", remedy="run the model once before operating on it")
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class _TensorsToMeta(TorchFunctionMode):
    """While active, deep-copying a tensor that no module has registered gives a ``meta`` tensor too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().to("meta")
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
