"""Dataflow in one graph: which activations a node comes from, and where the branches of a merge part."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.fx
from torch import nn
from torch.fx import Node

from sesurgery.recording.channel_axes import is_activation
from sesurgery.recording.nested import tensors_in

_ADD_PRODUCT: frozenset[Any] = frozenset((torch.addcmul, "addcmul", "addcmul_"))
_ADD: frozenset[Any] = frozenset((operator.add, operator.iadd, torch.add, "add", "add_")) | _ADD_PRODUCT
_SUB: frozenset[Any] = frozenset(
    (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract", "subtract_")
)
_MUL: frozenset[Any] = frozenset((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"))
_CAT: frozenset[Any] = frozenset((torch.cat, torch.concat, torch.concatenate))
_STACK: frozenset[Any] = frozenset((torch.stack,))
_BLEND: frozenset[Any] = frozenset((torch.lerp, "lerp", "lerp_"))
_SUM: frozenset[Any] = frozenset((torch.sum, "sum", torch.mean, "mean"))
_SCALE: frozenset[Any] = _MUL | {operator.truediv, torch.div, "div", "div_"}


def carries(node: object) -> TypeGuard[Node]:
    """Whether a node gives one tensor that depends on the model's input."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor) and is_activation(node.meta["val"])


def sources(node: Node) -> list[Node]:
    """The nodes whose activations ``node`` is computed from, sizes and weights left out."""
    return [source for source in node.all_input_nodes if holds_activation(source)]


def holds_activation(node: Node) -> bool:
    """Whether what a node gives is an activation, or has one in it."""
    value = node.meta.get("val")
    return isinstance(value, (torch.Tensor, list, tuple, dict)) and _has_activation(value)


def _has_activation(value: Any) -> bool:
    """The first activation decides: a dense layer asks once for each of the many in the list that it is given."""
    if isinstance(value, torch.Tensor):
        return is_activation(value)
    if isinstance(value, (list, tuple, dict)) and not isinstance(value, torch.Size):
        return any(map(_has_activation, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float, str, type(None))) and any(map(is_activation, tensors_in(value)))


def shape(node: Node) -> torch.Size:
    """Shape of what a node gave."""
    return node.meta["val"].shape


def added(node: Node) -> tuple[Node, ...]:
    """The activations that ``node`` adds up: two for ``a + b`` and ``lerp``, any number for a sum over a stack.

    Of a product of two activations that ``addcmul`` adds, the one with more behind it stands for the term.
    """
    if node.op not in ("call_function", "call_method") or not carries(node):
        return ()
    if node.target in _ADD or node.target in _BLEND:
        given = (*node.args, *node.kwargs.values())
        terms = [term for term in (given[:2] if node.target in _BLEND else given) if carries(term)]
        if node.target in _ADD_PRODUCT and len(terms) == 3:
            terms = [terms[0], max(terms[1:], key=lambda term: (shape(term) == shape(node), len(_ancestors(term))))]
        if len(terms) == 2 and all(shape(term) == shape(node) for term in terms):
            return tuple(terms)
    if node.target in _SUM and isinstance(node.args[0], Node):
        stacked = node.args[0]
        if stacked.target in _STACK and isinstance(stacked.args[0], (list, tuple)):
            terms = [term for term in stacked.args[0] if carries(term)]
            if len(terms) > 1 and all(shape(term) == shape(node) for term in terms):
                return tuple(terms)
    return ()


def subtracted(node: Node) -> tuple[Node, ...]:
    """The two activations of one shape of which ``node`` is the difference; none where it is none."""
    if node.op not in ("call_function", "call_method") or node.target not in _SUB or not carries(node):
        return ()
    terms = tuple(term for term in (*node.args, *node.kwargs.values()) if carries(term))
    return terms if len(terms) == 2 and all(shape(term) == shape(node) for term in terms) else ()


def _ancestors(node: Node) -> set[Node]:
    """The nodes from which a node is computed."""
    known: set[Node] = set()
    pending = [node]
    while pending:
        for source in sources(pending.pop()):
            if source not in known:
                known.add(source)
                pending.append(source)
    return known


def concatenated(node: Node) -> tuple[Node, ...]:
    """The activations that ``node`` concatenates; none where it concatenates less than two."""
    if node.op != "call_function" or node.target not in _CAT or not carries(node):
        return ()
    parts = node.args[0] if node.args else node.kwargs.get("tensors")
    if isinstance(parts, Node) and isinstance(parts.meta.get("val"), (list, tuple)):
        return (parts, parts) if len(parts.meta["val"]) > 1 else ()
    activations = tuple(part for part in parts if carries(part)) if isinstance(parts, (list, tuple)) else ()
    return activations if len(activations) > 1 else ()


def multiplied(node: Node) -> tuple[Node, Node] | None:
    """The two activations that ``node`` multiplies, if it does."""
    if node.op not in ("call_function", "call_method") or node.target not in _MUL or not carries(node):
        return None
    factors = [factor for factor in node.args if carries(factor)]
    return (factors[0], factors[1]) if len(factors) == 2 else None  # type: ignore[return-value]


def is_scaling(node: Node) -> bool:
    """Whether a node only scales one activation, by a number or by a weight of at most one axis (LayerScale)."""
    if node.op not in ("call_function", "call_method") or node.target not in _SCALE:
        return False
    return sum(carries(factor) for factor in node.args) == 1 and (node.target in _MUL or carries(node.args[0]))


def adds_nothing(node: Node) -> bool:
    """Whether a node adds 0 to one activation: how ``sum([x, f(x)])`` begins."""
    if node.op != "call_function" or node.target not in _ADD or len(node.args) != 2:
        return False
    return any(carries(term) for term in node.args) and any(
        type(term) in (int, float) and not term for term in node.args
    )


@dataclass(frozen=True)
class Flow:
    """The order and the dominators of one graph."""

    order: dict[Node, int]
    dominator: dict[Node, Node | None]

    @classmethod
    def of(cls, graph: torch.fx.Graph) -> Flow:
        """Compute the immediate dominators along activations; None is the virtual entry."""
        order = {node: index for index, node in enumerate(graph.nodes)}
        flow = cls(order, {})
        for node in graph.nodes:
            parents = sources(node)
            flow.dominator[node] = flow.common(parents) if parents else None
        return flow

    def common(self, nodes: Iterable[Node]) -> Node | None:
        """The nearest node that lies on every way to each of ``nodes`` (one of them, perhaps)."""
        result: Node | None = None
        for index, node in enumerate(nodes):
            result = node if index == 0 else self._meet(result, node)
        return result

    def _meet(self, one: Node | None, two: Node | None) -> Node | None:
        while one is not two:
            if one is None or two is None:
                return None
            if self.order[one] < self.order[two]:
                two = self.dominator[two]
            else:
                one = self.dominator[one]
        return one

    def leads(self, term: Node, others: Iterable[Node]) -> bool:
        """Whether every one of ``others`` is computed from ``term``, whatever else goes into it: ``x + f(x, y)``."""
        return all(other is term or self._reaches(term, other) for other in others)

    def _reaches(self, start: Node, end: Node) -> bool:
        seen: set[Node] = set()
        pending = [end]
        while pending:
            node = pending.pop()
            if node is start:
                return True
            if node not in seen and self.order[node] > self.order[start]:
                seen.add(node)
                pending.extend(sources(node))
        return False

    def between(self, fork: Node | None, end: Node) -> list[Node]:
        """The nodes on the ways from ``fork`` (left out) to ``end``, in order; none where they are the same."""
        nodes: set[Node] = set()
        pending = [end]
        while pending:
            node = pending.pop()
            if node is fork or node in nodes or node.op == "placeholder":
                continue
            nodes.add(node)
            pending.extend(sources(node))
        return sorted(nodes, key=self.order.__getitem__)


def own_weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters held by the module itself."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


def weight_layers(node: Node, child: Callable[[str], nn.Module]) -> int:
    """How many layers with a matrix or kernel a node runs (a norm or a LayerScale has only vectors)."""
    if node.op == "call_module":
        module = child(str(node.target))
        return sum(
            any(weight.ndim >= 2 and max(weight.shape) < weight.numel() for weight in own_weights(part))
            for part in module.modules()
        )
    count = 0
    for source in node.all_input_nodes:
        value = source.meta.get("val")
        if source.op == "get_attr" and isinstance(value, nn.Parameter) and value.ndim >= 2:
            count += max(value.shape) < value.numel()
    return count
