"""Other methods of a host that may be called in place of its forward, and the same places in them."""

from __future__ import annotations

import inspect
import types
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from sesurgery.operating.edited_class import original_class
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.recording.author_places import nested_code
from sesurgery.rewriting.insertions import paths_to


def same_place(insertion: LayerCall, graph: Graph, other: Graph) -> LayerCall | None:
    """The insertion in the record of another method: what the same users take, or what the same layer gives.

    None where there is no such place, or more than one.
    """
    nodes = {node.name: node for node in graph.nodes}
    value = nodes[insertion.value]
    users = [nodes[name] for name in insertion.users] or list(value.users)
    places = [_taken(_only(other, user), path) for user in users for path in paths_to(user, value)]
    matched = [node for node in places if node is not None]
    if len(matched) == len(users) and len(set(matched)) == 1:
        others = tuple(node.name for node in (_only(other, user) for user in users) if node is not None)
        every = not insertion.users or set(value.users) <= set(users)
        return LayerCall(insertion.name, matched[0].name, () if every else others)
    again = _only(other, value)
    return None if again is None or insertion.users else LayerCall(insertion.name, again.name)


def _only(graph: Graph, like: Node) -> Node | None:
    alike = [node for node in graph.nodes if node.op == like.op and node.target == like.target]
    return alike[0] if len(alike) == 1 else None


def _taken(user: Node | None, path: tuple[Any, ...]) -> Node | None:
    item: Any = None if user is None else {"args": user.args, "kwargs": user.kwargs}
    for key in path:
        try:
            item = item[key]
        except (KeyError, IndexError, TypeError):
            return None
    return item if isinstance(item, Node) else None


def entrances(host: nn.Module, graph: Graph) -> tuple[str, ...]:
    """The methods, other than ``forward``, that are meant to be called and run layers which ``forward`` runs.

    Told by their name, as the libraries choose it (``forward_features``, ``forward_with_tap``); a private one counts
    unless it is a part of ``forward``.
    """
    kind = original_class(type(host))
    layers = {str(node.target).partition(".")[0] for node in graph.nodes if node.op == "call_module"}
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
    methods: set[str] = set()
    pending = [method]
    while pending:
        called = {name for name in _names(kind, pending.pop()) if _code(kind, name) is not None} - methods
        methods |= called
        pending.extend(called)
    return methods - {method}


def _names(kind: type, method: str) -> set[str]:
    code = _code(kind, method)
    return set() if code is None else {name for part in nested_code(code) for name in part.co_names}


def _code(kind: type, method: str) -> types.CodeType | None:
    raw = inspect.getattr_static(kind, method, None)
    function = inspect.unwrap(getattr(raw, "__func__", raw))  # type: ignore[arg-type]
    return getattr(function, "__code__", None)
