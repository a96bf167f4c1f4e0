"""A private, weightless copy of a model: the body on which everything is looked at and tried first.

The copy lies on the ``meta`` device, so it costs no memory and no arithmetic, and whatever planning does to it
(modes, classes, hooks) never reaches the model it was taken from.
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sesurgery.errors import ModelError
from sesurgery.recording.compat import BACKWARD_HOOKS, FORWARD_HOOKS
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
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = _weightless(tensor)
    modules = list(model.modules())
    for module in modules:
        for name in BACKWARD_HOOKS if hooks else (*FORWARD_HOOKS, *BACKWARD_HOOKS):
            table = module.__dict__.get(name)
            if table is not None:
                memo[id(table)] = type(table)()
        if _is_plain(type(module)):
            memo[id(module)] = type(module).__new__(type(module))
    try:
        with _TensorsToMeta():
            for module in reversed(modules):  # what is inside first
                if id(module) in memo:
                    _copy_state(module, memo[id(module)], memo)
            twin = copy.deepcopy(model, memo)
            own_hooks(twin, memo)
            return twin
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {reason(error)}",
            where=type(model).__name__,
            remedy="keep what cannot be copied (locks, files, generators) outside the module",
        ) from error


def own_hooks(twin: nn.Module, memo: dict[int, Any]) -> None:
    """Let the forward hooks of a deep copy fill what belongs to the copy, where they are functions with a closure.

    A hook that is a method or a ``partial`` of one was copied with its object; a function is not copied at all.
    """
    for module in twin.modules():
        for name in FORWARD_HOOKS[:2]:
            table = module.__dict__[name]
            for key, hook in table.items():
                if isinstance(hook, types.FunctionType) and hook.__closure__:
                    table[key] = _with_own_cells(hook, memo)


def _with_own_cells(hook: types.FunctionType, memo: dict[int, Any]) -> Callable[..., Any]:
    cells = tuple(_own_cell(cell, memo) for cell in hook.__closure__ or ())
    function = types.FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
    function.__kwdefaults__ = hook.__kwdefaults__
    return function


def _own_cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # empty yet
        return cell
    return types.CellType(copy.deepcopy(value, memo)) if isinstance(value, _FILLED) else cell


def hooks_on(model: nn.Module) -> list[str]:
    """The forward hooks of a model: where each is, and what it is called."""
    return [
        f"{path or 'the model'} ({getattr(hook, '__qualname__', None) or type(hook).__name__})"
        for path, module in model.named_modules()
        for name in FORWARD_HOOKS[:2]
        for hook in module.__dict__[name].values()
    ]


def _refuse_scripts(model: nn.Module) -> None:
    for path, module in model.named_modules():
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
