"""When two modules are the same but for their weights: what lets one trace serve every equal block."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sesurgery.operating.backup import HOST_MARK, MODEL_MARK

_PLAIN = (
    bool,
    int,
    float,
    str,
    type(None),
    torch.Size,
    torch.dtype,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
)
_LEFT_BY_OTHERS = (HOST_MARK, MODEL_MARK, "_is_full_backward_hook", "_is_hf_initialized")
_BOOKKEEPING = frozenset((*nn.Module().__dict__, *_LEFT_BY_OTHERS)) - {"training"}


class Structures:
    """Which modules of a model are equal but for the values of their weights, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._numbers: dict[nn.Module, int | None] = {}
        self._known: dict[Any, int] = {}
        self._tied = bool(_ties(model))
        self._number(model)

    def of(self, module: nn.Module) -> Any:
        """Equal for two modules only if they are; None where an attribute cannot be compared."""
        number = self._number(module)
        return None if number is None else (number, _ties(module) if self._tied else ())

    def _number(self, module: nn.Module) -> int | None:
        if module not in self._numbers:
            self._numbers[module] = None  # a module that holds itself is equal to none
            described = _describe(module, self._number)
            # Numbers are compared quickly, descriptions of a whole network are not.
            self._numbers[module] = None if described is None else self._known.setdefault(described, len(self._known))
        return self._numbers[module]


def structure(module: nn.Module) -> Any:
    """A hashable description: equal for two modules, of one model or two, only if they differ in no more than weights.

    None where an attribute cannot be compared.
    """
    known: dict[nn.Module, Any] = {}

    def described(part: nn.Module) -> Any:
        if part not in known:
            known[part] = None
            known[part] = _describe(part, described)
        return known[part]

    form = described(module)
    return None if form is None else (form, _ties(module))


def own_attributes(module: nn.Module) -> Any:
    """What a module's own code may go by: its plain attributes, numbers with a point only by whether they are 0.

    None where an attribute cannot be compared.
    """
    fields = [(name, value) for name, value in module.__dict__.items() if name not in _BOOKKEEPING]
    described = tuple((name, value != 0 if isinstance(value, float) else _value(value)) for name, value in fields)
    empty = tuple(name for name, child in module._modules.items() if child is None)
    return None if any(value is _UNLIKE for _, value in described) else (type(module), described, empty)


def _ties(module: nn.Module) -> tuple[int, ...]:
    """Which of the modules and weights in a module are one object: for each place the first that holds it."""
    first: dict[Any, int] = {}
    places = _places(module)
    objects = [*places, *(tensor for part in places for tensor in part._parameters.values())]
    numbers = tuple(first.setdefault(id(item), index) for index, item in enumerate(objects) if item is not None)
    return () if len(first) == len(numbers) else numbers


def _places(module: nn.Module) -> list[nn.Module]:
    """The module and all in it, once for each place."""
    places = [module]
    for part in places:  # grows
        places += [child for child in part._modules.values() if child is not None]
    return places


def _describe(module: nn.Module, described_as: Callable[[nn.Module], Any]) -> Any:
    plain = []
    for name, value in module.__dict__.items():
        if name in _BOOKKEEPING:
            continue
        described = _value(value)
        if described is _UNLIKE:
            return None
        plain.append((name, described))
    children = []
    for name, child in module._modules.items():
        described = None if child is None else described_as(child)
        if child is not None and described is None:
            return None
        children.append((name, described))
    tensors = tuple(
        (name, None if tensor is None else (tuple(tensor.shape), tensor.dtype))
        for group in (module._parameters, module._buffers)
        for name, tensor in group.items()
    )
    return type(module), tuple(sorted(plain, key=lambda item: item[0])), tuple(children), tensors


_UNLIKE = object()


def _value(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple)):
        items = tuple(_value(item) for item in value)
        return _UNLIKE if _UNLIKE in items else (type(value), items)
    if isinstance(value, dict):
        return _value(list(value.items()))
    if isinstance(value, functools.partial):
        return _value([value.func, value.args, value.keywords])
    return _UNLIKE
