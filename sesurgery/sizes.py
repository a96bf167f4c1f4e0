"""Tensors that a forward makes from sizes: recorded with the sizes symbolic."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx

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
