"""Where activations meet in one host: residual sums, sums of like branches, concats and gates."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.dataflow import (
    Flow,
    added,
    adds_nothing,
    carries,
    concatenated,
    is_scaling,
    multiplied,
    own_weights,
    sources,
    weight_layers,
)
from sesurgery.anatomy.layer_kinds import is_dropping
from sesurgery.tracing.trace import Trace

_RESIDUAL = ("identity", "projected")


@dataclass(frozen=True)
class Merge:
    """A node of a host where activations meet.

    Attributes:
        host: the module whose forward holds it.
        node: the ``add``, ``cat`` or ``mul``.
        op, kind: as in :class:`~sesurgery.plans.MergeInfo`.
        fork: where the branches part; None where they come in by different arguments.
        identity: the operand at the end of the identity branch, for residual merges.
        branches: the other operands: the ends of the residual branches.
        partial: its only user is an outer sum that takes in one more branch.
        inner: the partial sum that this one goes on with, which carries the identity branch.
    """

    host: nn.Module
    node: Node
    op: str
    kind: str
    fork: Node | None
    identity: Node | None
    branches: tuple[Node, ...]
    partial: bool = False
    inner: Node | None = None

    def readers(self, operand: Node) -> tuple[Node, ...]:
        """The nodes that take an operand for the merge: itself, or what gathers its operands (``stack``)."""
        if self.node in operand.users:
            return (self.node,)
        return tuple(user for user in operand.users if user in self.node.all_input_nodes)

    @property
    def residual(self) -> bool:
        """Whether one side is the identity (or a projection of it)."""
        return self.kind in _RESIDUAL


def merges_of(host: nn.Module, traced: Trace, flow: Flow, attention: Set[nn.Module] = frozenset()) -> tuple[Merge, ...]:
    """The sums and concats of one host, in order; attention on a branch does not make it heavier."""
    merges: dict[Node, Merge] = {}
    weigh = _Scales(host, attention)
    for node in traced.graph.nodes:
        terms = added(node)
        if terms:
            merges[node] = _sum(weigh, node, terms, flow, merges)
            continue
        parts = concatenated(node)
        if parts:
            merges[node] = Merge(host, node, "cat", "concat", flow.common(parts), None, parts)
    return tuple(merges.values())


def gates_of(host: nn.Module, traced: Trace, flow: Flow) -> tuple[Merge, ...]:
    """The products by which an activation is gated by a transform of itself."""
    gates: dict[Node, Merge] = {}
    for node in traced.graph.nodes:
        factors = multiplied(node)
        gate = _gate(host, node, factors, flow, gates) if factors else None
        if gate is not None:
            gates[node] = gate
    return tuple(gates.values())


def _root(node: Node, gates: dict[Node, Merge]) -> Node:
    """What a product of several gates gates: ``x`` of ``x * h * w``."""
    while node in gates and gates[node].identity is not None:
        node = gates[node].identity  # type: ignore[assignment]
    return node


@dataclass(frozen=True)
class _Scales:
    """Weighs the branches of a host."""

    host: nn.Module
    attention: Set[nn.Module]

    def layers(self, way: list[Node]) -> int:
        """Layers with kernels or matrices along a way, attention left out."""
        return sum(weight_layers(node, self.host.get_submodule) for node in way if not self.gates(node))

    def gates(self, node: Node) -> bool:
        """Whether a node is attention."""
        return node.op == "call_module" and self.host.get_submodule(str(node.target)) in self.attention

    def bare(self, way: list[Node]) -> bool:
        """Whether a way leaves the activation what it is, but for attention."""
        return all(self.gates(node) or passes(node, self.host) for node in way)

    def scaled(self, way: list[Node]) -> bool:
        """Whether a way does no more to the activation than to multiply it by numbers or by a weight a channel."""
        return all(_by_a_weight(node) or self.gates(node) or passes(node, self.host) for node in way)


def _sum(scales: _Scales, node: Node, terms: tuple[Node, ...], flow: Flow, merges: dict[Node, Merge]) -> Merge:
    host = scales.host
    fork = next((term for term in terms if flow.leads(term, terms)), None) or flow.common(terms)
    known = isinstance(fork, Node) and isinstance(fork.meta.get("val"), torch.Tensor)
    partial = _only_user_is_sum(node)
    inner = next((term for term in terms if term in merges and merges[term].partial), None)
    if inner is not None and merges[inner].residual and merges[inner].fork is fork:
        others = tuple(term for term in terms if term is not inner)
        return Merge(host, node, "add", merges[inner].kind, fork, inner, others, partial, inner)
    if not known or _is_fusion(scales, terms, fork, flow, merges):
        return Merge(host, node, "add", "symmetric", fork, None, terms, partial)
    kind, identity = _kind(scales, terms, fork, flow)
    branches = tuple(term for term in terms if term is not identity)
    return Merge(host, node, "add", kind, fork, identity, branches, partial)


def _is_fusion(
    scales: _Scales, terms: tuple[Node, ...], fork: Node | None, flow: Flow, merges: dict[Node, Merge]
) -> bool:
    """Whether three or more branches meet that are all single layers: a re-parameterisable sum (RepVGG)."""
    leaves: list[Node] = []
    pending = list(terms)
    while pending:
        term = _core(pending.pop(), scales.host)
        if term in merges and merges[term].op == "add":
            pending.extend(added(term))
        else:
            leaves.append(term)
    ways = [flow.between(fork, leaf) for leaf in leaves]
    return len(leaves) > 2 and all(not scales.bare(way) and scales.layers(way) <= 1 for way in ways)


def _core(node: Node, host: nn.Module) -> Node:
    """The node behind dropouts and identities that have no other use for it."""
    while node.op == "call_module" and passes(node, host) and len(sources(node)) == 1:
        if len(sources(node)[0].users) > 1:
            break
        node = sources(node)[0]
    return node


def _only_user_is_sum(node: Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and len(added(users[0])) > 1


def _kind(scales: _Scales, terms: tuple[Node, ...], fork: Node | None, flow: Flow) -> tuple[str, Node | None]:
    """Which operand ends the identity branch: the one without layers, or with the lighter projection."""
    branches = {term: flow.between(fork, term) for term in terms}
    weights = {term: scales.layers(branches[term]) for term in terms}
    bare = [term for term in terms if scales.bare(branches[term])]
    bare = bare or [term for term in terms if scales.scaled(branches[term])]
    if len(bare) == 1:
        return "identity", bare[0]
    if bare:
        return "symmetric", None
    lightest = min(terms, key=lambda term: (weights[term], len(branches[term])))
    heavier = [term for term in terms if term is not lightest]
    deep = any(weights[term] > max(1, weights[lightest]) for term in heavier)
    only = all(weights[term] > weights[lightest] for term in heavier)
    if weights[lightest] <= 1 and only and deep:
        return "projected", lightest
    return "symmetric", None


def _by_a_weight(node: Node) -> bool:
    """Whether a node multiplies an activation by numbers or by a vector; a table of rotations is neither."""
    factors = [factor.meta["val"] for factor in node.all_input_nodes if not carries(factor)]
    return is_scaling(node) and all(
        not isinstance(value, torch.Tensor) or value.numel() == max(value.shape, default=1) for value in factors
    )


def passes(node: Node, host: nn.Module) -> bool:
    """Whether a node passes an activation on unchanged: nothing, a dropout, or a choice out of a list."""
    if adds_nothing(node):
        return True
    if node.op == "call_module":
        return is_dropping(host.get_submodule(str(node.target)))
    return node.op in ("call_function", "call_method") and (
        getattr(node.target, "__name__", node.target) in ("getitem", "clone", "contiguous", "dropout", "to")
    )


def _gate(
    host: nn.Module, node: Node, factors: tuple[Node, Node], flow: Flow, gates: dict[Node, Merge]
) -> Merge | None:
    """A product of an activation with a transform of itself that has weights, or that is pooled and squashed."""
    roots = tuple(_root(factor, gates) for factor in factors)
    fork = flow.common(factors)
    if fork not in factors:
        fork = flow.common(roots)
    if fork not in factors and fork not in roots:
        return None
    first = fork in (factors[0], roots[0])
    gated, gate = (factors[0], factors[1]) if first else (factors[1], factors[0])
    way = flow.between(fork, gate)
    if not way or len(gated.meta["val"].shape) != len(node.meta["val"].shape):
        return None
    weights = sum(weight_layers(step, host.get_submodule) for step in way)
    children = [host.get_submodule(str(step.target)) for step in way if step.op == "call_module"]
    weights += sum(bool(own_weights(part)) for child in children for part in child.modules())
    if not weights and not (_is_squashed(gate, host) and _looks_around(way, gated)):
        return None
    return Merge(host, node, "mul", "gate", fork, gated, (gate,))


def _is_squashed(gate: Node, host: nn.Module) -> bool:
    name = gate.target
    if gate.op == "call_module":
        name = type(host.get_submodule(str(gate.target))).__name__
    text = getattr(name, "__name__", str(name)).lower()
    return any(word in text for word in ("sigmoid", "tanh", "softmax"))


def _looks_around(way: list[Node], gated: Node) -> bool:
    """Whether a gate goes by more than one place of what it gates: something on its way is pooled (SimAM)."""
    return any(carries(step) and step.meta["val"].numel() < gated.meta["val"].numel() for step in way)
