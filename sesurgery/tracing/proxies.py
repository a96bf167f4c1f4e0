"""Proxies that know the value they stand for."""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch
import torch.fx
from torch.fx.proxy import TraceError


class FixesNumbers(Protocol):
    """A tracer that can fix a size to the number it was."""

    def fixed_number(self, obj: torch.fx.Proxy, kind: type) -> Any:
        """The number; whoever traces sees to it that it is checked at run time."""
        ...


class ValueProxy(torch.fx.Proxy):
    """A proxy that knows its value, and passes for a tensor, list or dict where it stands for one.

    Rank and the length of a list belong to the structure of a network and are taken as they are; sizes stay symbolic.
    """

    _is_param = False

    @property
    def __class__(self) -> type:  # type: ignore[override]
        value = self.node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return torch.Tensor
        if isinstance(value, (list, dict)) or type(value) is tuple:
            return type(value)
        return ValueProxy

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("a proxy keeps its class")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # so that no protocol takes a proxy for an array
        value = self.node.meta.get("val")
        if isinstance(value, torch.Tensor):
            if name == "ndim":
                return value.ndim
            if name == "dim":
                return lambda: value.ndim
        if value is not None and not callable(getattr(value, name, len)):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        if isinstance(value, dict) and name in ("items", "values"):
            pairs = [(key, item(self, key)) for key in value]
            return lambda: pairs if name == "items" else [part for _, part in pairs]
        return super().__getattr__(name)

    def keys(self) -> Any:
        value = self.node.meta.get("val")
        return list(value) if isinstance(value, dict) else super().keys()

    def __int__(self) -> int:
        return cast(FixesNumbers, self.tracer).fixed_number(self, int)

    __index__ = __int__

    def __float__(self) -> float:
        return cast(FixesNumbers, self.tracer).fixed_number(self, float)

    def __iter__(self) -> Iterator[Any]:
        value = self.node.meta.get("val")
        if isinstance(value, dict):
            return iter(value)
        if isinstance(value, (list, tuple)):
            return iter([item(self, index) for index in range(len(value))])
        if isinstance(value, torch.Tensor) and value.ndim:
            if not _unpacks(inspect.currentframe()):
                raise TraceError("its forward loops over an axis of a tensor")
            return iter([item(self, index) for index in range(value.shape[0])])
        return iter(super().__iter__())

    def __len__(self) -> int:
        value = self.node.meta.get("val")
        if isinstance(value, (list, tuple, dict)):
            return len(value)
        return super().__len__()

    def __setitem__(self, index: Any, item: Any) -> None:
        """A write into a tensor is a step like any other: it stands in the graph where it was made."""
        if not isinstance(self.node.meta.get("val"), torch.Tensor):
            raise TypeError(f"its forward assigns to a place of a {type(self.node.meta.get('val')).__name__}")
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, item), {})


def _unpacks(frame: types.FrameType | None) -> bool:
    """Whether the caller of ``frame`` is about to assign to several names: then their number is part of the code."""
    caller = frame.f_back if frame is not None else None
    return caller is not None and dis.opname[caller.f_code.co_code[caller.f_lasti]] == "UNPACK_SEQUENCE"


def item(proxy: torch.fx.Proxy, key: Any) -> Any:
    """``proxy[key]``; torch.fx gives a Proxy its operators at run time, where no type checker sees them."""
    return operator.getitem(cast(Any, proxy), key)


def values(arguments: Any) -> Any:
    """Arguments of a node with every node in them as the value it had, in plain lists and dicts."""
    if isinstance(arguments, torch.fx.Node):
        return arguments.meta["val"]
    if isinstance(arguments, tuple):
        items = [values(item) for item in arguments]
        return type(arguments)(*items) if hasattr(arguments, "_fields") else tuple(items)
    if isinstance(arguments, list):
        return [values(item) for item in arguments]
    if isinstance(arguments, dict):
        return {key: values(item) for key, item in arguments.items()}
    if isinstance(arguments, slice):
        return slice(values(arguments.start), values(arguments.stop), values(arguments.step))
    return arguments


def unpacked(proxy: torch.fx.Proxy, value: Any) -> Any:
    """A list as a list of proxies, so that a forward may assign to its places."""
    return [item(proxy, index) for index in range(len(value))] if isinstance(value, list) else proxy


# They take sizes, which torch reads as numbers before it looks for a proxy.
_FACTORIES = ("zeros", "ones", "empty", "full", "rand", "randn", "eye")


@contextlib.contextmanager
def symbolic_factories() -> Iterator[None]:
    """While active, ``torch.zeros(n, c)`` is recorded as it is where ``n`` or ``c`` is a proxy."""
    saved = {name: getattr(torch, name) for name in _FACTORIES}
    try:
        for name, factory in saved.items():
            setattr(torch, name, _recording(factory))
        yield
    finally:
        for name, factory in saved.items():
            setattr(torch, name, factory)


def _recording(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def made(*args: Any, **kwargs: Any) -> Any:
        proxy = next(_proxies((args, kwargs)), None)
        if proxy is None:
            return factory(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", factory, args, kwargs)

    return made


def _proxies(value: Any) -> Iterator[torch.fx.Proxy]:
    """The proxies in nested arguments, told by their true type: they pass for what they stand for."""
    if issubclass(type(value), torch.fx.Proxy):
        yield value
    elif type(value) in (tuple, list):
        for item in value:
            yield from _proxies(item)
    elif type(value) is dict:
        yield from _proxies(tuple(value.values()))
