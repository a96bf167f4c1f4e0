"""Expressions that build a layer again: a call of its class with the arguments that it was made with.

An expression is believed only if what it gives is like the layer: same classes, settings, shapes and children.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import math
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.errors import Unfit
from sesurgery.export.names import Names
from sesurgery.operating.backup import HOST_MARK, MODEL_MARK

_SCALARS = (type(None), bool, int, str)
_IGNORED = {HOST_MARK, MODEL_MARK, "training"}


@dataclass(frozen=True)
class Call:
    """A constructor's call: positional arguments, then those by keyword."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@contextlib.contextmanager
def recorded() -> Iterator[dict[int, Call]]:
    """The calls by which modules are made inside, by the ids of the modules."""
    calls: dict[int, Call] = {}
    alive: list[nn.Module] = []
    original = nn.Module.__init__

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        call = _call_of(self, sys._getframe(1))
        if call is not None and id(self) not in calls:
            calls[id(self)] = call
            alive.append(self)  # so that no other module gets its id
        original(self, *args, **kwargs)

    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def _call_of(module: nn.Module, frame: types.FrameType | None) -> Call | None:
    """The arguments of the outermost ``__init__`` of a module, which has only begun."""
    outermost: types.FrameType | None = None
    while frame is not None and frame.f_code.co_name == "__init__":
        names = frame.f_code.co_varnames
        if not names or frame.f_locals.get(names[0]) is not module:
            break
        outermost, frame = frame, frame.f_back
    if outermost is None:
        return None
    info = inspect.getargvalues(outermost)
    code = outermost.f_code
    positional = [info.locals[name] for name in info.args[1 : code.co_argcount]]
    extra = list(info.locals[info.varargs]) if info.varargs else []
    keywords = {name: info.locals[name] for name in code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]}
    return Call((*positional, *extra), {**keywords, **(info.locals[info.keywords] if info.keywords else {})})


def call_from_attributes(module: nn.Module) -> Call | None:
    """What a layer may have been called with, where it keeps its arguments under their names, as torch's layers do."""
    arguments: dict[str, Any] = {}
    for name, parameter in _parameters(type(module)).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in ("device", "dtype"):
            continue
        value = getattr(module, name, parameter.default)
        if isinstance(value, Tensor) or (value is None and name in module._parameters):
            value = value is not None  # bias=True
        if value is inspect.Parameter.empty:
            return None
        arguments[name] = value
    return Call((), arguments)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind.__init__).parameters
    return dict(list(parameters.items())[1:])


def call_text(kind: type, call: Call, written: Callable[[Any], str], names: Names) -> str:
    """The call as source: arguments that have no default by place, the others by name where they differ from it."""
    parameters = _parameters(kind)
    places = [each for each in parameters.values() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    given = dict(zip((each.name for each in places), call.args, strict=False)) | dict(call.kwargs)
    extra = call.args[len(places) :]
    parts: list[str] = []
    by_place = True
    for each in places:
        if each.name not in given:
            by_place = False
            continue
        value = given.pop(each.name)
        if by_place and (extra or each.default is each.empty):
            parts.append(written(value))
            continue
        by_place = False
        if not _same_value(value, each.default):
            parts.append(f"{each.name}={written(value)}")
    parts += [written(value) for value in extra]
    for name, value in given.items():
        if name not in parameters or not _same_value(value, parameters[name].default):
            parts.append(f"{name}={written(value)}")
    return f"{names.reference(kind)}({', '.join(parts)})"


def value_text(value: Any, names: Names, inner: Callable[[Any], str]) -> str:
    """A value as source; ``inner`` writes the parts of containers. Raises ``Unfit`` for what has no words."""
    if isinstance(value, enum.Enum):
        return f"{names.reference(type(value))}.{value.name}"
    if type(value) in _SCALARS:
        return repr(value)
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype | torch.device):
        text = repr(value) if isinstance(value, torch.dtype) else f'torch.device("{value}")'
        return text.replace("torch", names.bind("torch", torch, "torch"), 1)
    if type(value) in (tuple, torch.Size):
        return f"({', '.join(map(inner, value))}{',' * (len(value) == 1)})"
    if type(value) is list:
        return f"[{', '.join(map(inner, value))}]"
    if type(value) in (dict, OrderedDict):
        body = ", ".join(f"{inner(key)}: {inner(item)}" for key, item in value.items())
        return f"{{{body}}}" if type(value) is dict else f"{names.reference(OrderedDict)}({{{body}}})"
    if isinstance(value, functools.partial):
        parts = [*map(inner, value.args), *(f"{key}={inner(item)}" for key, item in value.keywords.items())]
        return f"{names.bind('partial', functools.partial, 'functools')}({', '.join([inner(value.func), *parts])})"
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return names.reference(value)
    raise Unfit(f"a {type(value).__name__} among its arguments has no words in Python source")


def _same_value(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and type(one) in (*_SCALARS, float, tuple, list, dict) and one == other


def settings(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module that say how it works, as far as they can be compared."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _IGNORED
        and isinstance(value, (*_SCALARS, float, tuple, list, torch.dtype))
        and _comparable(value)
    }


def _comparable(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_comparable(item) for item in value)
    return isinstance(value, (*_SCALARS, float, torch.dtype))


def tensors(module: nn.Module) -> dict[str, tuple[Any, ...] | None]:
    """Shape and role of each tensor of the state_dict that a module holds itself; others it makes by itself."""
    stored = module.state_dict().keys()
    named = (("parameter", module._parameters), ("buffer", module._buffers))
    return {
        name: None if tensor is None else (role, tuple(tensor.shape))
        for role, table in named
        for name, tensor in table.items()
        if tensor is None or name in stored
    }


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are the same but for their weights."""
    if type(one) is not type(other) or list(one._modules) != list(other._modules):
        return False
    if settings(one) != settings(other) or tensors(one) != tensors(other):
        return False
    pairs = [(child, other._modules[name]) for name, child in one._modules.items()]
    return all((a is None) == (b is None) and (a is None or b is None or alike(a, b)) for a, b in pairs)
