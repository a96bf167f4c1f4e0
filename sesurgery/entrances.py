"""Other methods of a host that run its layers: what is done to ``forward`` does not reach them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator

from torch import nn

from .generated import base_of
from .trace import Trace


def entrances(host: nn.Module, traced: Trace) -> tuple[str, ...]:
    """The methods, other than ``forward``, that are meant to be called and run layers which ``forward`` runs.

    Told by their name, as the libraries choose it (``forward_features``, ``forward_with_tap``); a private one counts
    unless it is a part of ``forward``.
    """
    kind = base_of(host)
    layers = {str(node.target).partition(".")[0] for node in traced.graph.nodes if node.op == "call_module"}
    parts = _reached(kind, "forward")
    return tuple(
        name
        for name in dir(kind)
        if "forward" in name
        and name != "forward"
        and not hasattr(nn.Module, name)
        and not (name.startswith("_") and name in parts)
        and any(layers & _names(kind, method) for method in {name, *_reached(kind, name)})
    )


def _reached(kind: type, method: str) -> set[str]:
    """The methods that a method calls, directly or not."""
    found: set[str] = set()
    pending = [method]
    while pending:
        called = {name for name in _names(kind, pending.pop()) if _code(kind, name) is not None} - found
        found |= called
        pending.extend(called)
    return found - {method}


def _names(kind: type, method: str) -> set[str]:
    code = _code(kind, method)
    return set() if code is None else {name for part in _nested(code) for name in part.co_names}


def _code(kind: type, method: str) -> types.CodeType | None:
    found = inspect.unwrap(getattr(kind, method, None))  # type: ignore[arg-type]
    return getattr(found, "__code__", None)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
