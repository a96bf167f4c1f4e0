"""Translation validation: what an operated host does is what it did before, but for the layers that were put in.

Two recorded calls are compared as dataflow: every operation gets a key from its function, its constants and the keys
of its inputs, so the order of independent operations and the names of nodes do not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node

from sesurgery.errors import Unfit
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.words.text import told, told_anywhere


def check(before: Graph, after: Graph, insertions: Sequence[LayerCall]) -> None:
    """Raise ``Unfit`` unless ``after`` is ``before`` with the insertions, each called once and nowhere else."""
    expected, actual = _Keys(insertions), _Keys(())
    if expected.of(before) != actual.of(after):
        raise Unfit(_difference(before, after, insertions))


def check_but_for(before: Graph, after: Graph, names: Sequence[str], elsewhere: Set[str] = frozenset()) -> None:
    """Raise ``Unfit`` unless ``after``, the calls of ``names`` left out, is ``before``, and each is called once.

    For a mode in which nobody said where the sites are, training, and for calls with other options.

    Args:
        elsewhere: those of the names whose sites this call does not reach: they need not be called.
    """
    calls = Counter(str(node.target) for node in after.nodes if node.op == "call_module" and node.target in names)
    for name in names:
        if calls[name] != 1 and (calls[name] or name not in elsewhere):
            raise Unfit(
                f"while training, or when called otherwise, its forward would call self.{name} {calls[name]} times"
            )
    if _Keys(()).of(before) != _Keys((), frozenset(names)).of(after):
        raise Unfit("its forward takes another way while training, and the site is not the same there")


def absent(first: Graph, other: Graph, insertions: Sequence[LayerCall]) -> frozenset[str]:
    """The layers whose sites, known from one call of a host, do not come about in another call of it.

    A site comes about where the same child is called or the same value is computed, and one of those reads it that are
    to read it gated.
    """
    keys, others = _Keys(()), _Keys(())
    keys.of(first)
    others.of(other)
    nodes = {node.name: node for node in first.nodes}
    missing: set[str] = set()
    for insertion in insertions:
        value = nodes.get(insertion.value)
        readers = {(nodes[name].op, nodes[name].target) for name in insertion.users if name in nodes}
        alike = [] if value is None else [node for node in other.nodes if _is_alike(node, value, keys, others)]
        if value is not None and not any(_is_read(node, readers) for node in alike):
            missing.add(insertion.name)
    return frozenset(missing)


def _is_alike(node: Node, value: Node, keys: _Keys, others: _Keys) -> bool:
    same_child = node.op == value.op == "call_module" and node.target == value.target
    return same_child or others.known[node] == keys.known[value]


def _is_read(node: Node, readers: Set[tuple[str, Any]]) -> bool:
    return not readers or any((user.op, user.target) in readers for user in node.users)


@dataclass
class _Keys:
    """The keys of a graph's operations.

    Attributes:
        insertions: layers to be thought of as called.
        without: names of children to be thought of as passing on what they take.
    """

    insertions: Sequence[LayerCall]
    without: frozenset[str] = frozenset()
    known: dict[Node, int] = field(default_factory=dict)

    def of(self, graph: Graph) -> tuple[Counter[int], int]:
        """How often each operation is done, and what comes out."""
        done: Counter[int] = Counter()
        output = 0
        for node in graph.nodes:
            key = self._key(node)
            if node.op == "output":
                output = key
            elif node.op.startswith("call") and not self._passes(node):
                done[key] += 1
        for insertion in self.insertions:
            value = next((node for node in graph.nodes if node.name == insertion.value), None)
            if value is not None:
                done[self._called(insertion, self.known[value])] += 1
        return done, output

    def _key(self, node: Node) -> int:
        if self._passes(node):
            self.known[node] = self._argument(node.args[0], node)
        else:
            target = node.target if isinstance(node.target, str) else _function(node.target)
            args = self._argument(node.args, node), self._argument(node.kwargs, node)
            self.known[node] = hash((node.op, target, args))
        return self.known[node]

    def _passes(self, node: Node) -> bool:
        """Left out, or another name for what is returned as it came in: it is none once a layer stands between."""
        if node.target is torch.ops.aten.alias.default:
            return True
        return node.op == "call_module" and node.target in self.without

    def _argument(self, value: Any, user: Node) -> int:
        if isinstance(value, Node):
            key = self.known[value]
            for insertion in self.insertions:
                if insertion.value == value.name and (not insertion.users or user.name in insertion.users):
                    key = self._called(insertion, key)
            return key
        if isinstance(value, (list, tuple)):
            return hash((type(value).__name__, tuple(self._argument(item, user) for item in value)))
        if isinstance(value, Mapping):
            return hash(tuple((str(key), self._argument(item, user)) for key, item in value.items()))
        if isinstance(value, slice):
            return self._argument((value.start, value.stop, value.step), user)
        return hash(_constant(value))

    def _called(self, insertion: LayerCall, key: int) -> int:
        args = hash(("tuple", (key,)))
        return hash(("call_module", insertion.name, (args, hash(()))))


def _constant(value: Any, depth: int = 3) -> Any:
    """What tells a constant from others; of an object that a forward makes anew each time, what is in it."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype)
    if callable(value):
        return _function(value)
    anywhere = told_anywhere(value)
    if anywhere == told(value) or not depth:
        return type(value).__name__, anywhere
    inside = tuple((name, _constant(item, depth - 1)) for name, item in getattr(value, "__dict__", {}).items())
    return type(value).__name__, anywhere, inside


def _function(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', None) or type(function).__name__}"


def wrong_calls(after: Graph, names: Sequence[str]) -> str | None:
    """What is wrong where a layer is not called exactly once."""
    calls = Counter(str(node.target) for node in after.nodes if node.op == "call_module")
    return next((f"its forward would call self.{name} {calls[name]} times" for name in names if calls[name] != 1), None)


def _difference(before: Graph, after: Graph, insertions: Sequence[LayerCall]) -> str:
    """What a user may know about a forward that would not do what it should."""
    wrong = wrong_calls(after, [insertion.name for insertion in insertions])
    return wrong or _overwritten(before, insertions) or "its forward would not do the same with a layer at that place"


def _overwritten(before: Graph, insertions: Sequence[LayerCall]) -> str | None:
    """The two lines where somebody writes into what the layer takes, and somebody reads it afterwards."""
    nodes = {node.name: node for node in before.nodes}
    for insertion in insertions:
        value = nodes.get(insertion.value)
        for node in before.nodes:
            if value is not None and value in node.meta.get("writes", ()):
                readers = [user for user in node.users if user.meta.get("place") is not None]
                if readers:
                    return (
                        f"{node.meta.get('place')} writes into it in place, and {readers[-1].meta['place']} reads it "
                        "afterwards: a layer between would part the two"
                    )
    return None
