"""Where activations meet in one host: residual sums, sums of like branches, concats and gates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

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
    subtracted,
    weight_layers,
)
from sesurgery.anatomy.layer_kinds import function_name, is_dropping
from sesurgery.anatomy.whole import Step, Whole, between, flat, is_linear, is_pyramid, leads
from sesurgery.recording.recorder import Frame
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
        outside: the fork lies outside of this call of the host: its sides come by two arguments, or out of a tuple.
        start: where such a branch begins in the forward of a child: the child, the value, and who takes it there.
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
    outside: bool = False
    start: tuple[nn.Module, Node, tuple[Node, ...]] | None = None

    def readers(self, operand: Node) -> tuple[Node, ...]:
        """The nodes that take an operand for the merge: itself, or what gathers its operands (``stack``)."""
        if self.node in operand.users:
            return (self.node,)
        return tuple(user for user in operand.users if user in self.node.all_input_nodes)

    @property
    def residual(self) -> bool:
        """Whether one side is the identity (or a projection of it)."""
        return self.kind in _RESIDUAL


def merges_of(
    host: nn.Module,
    traced: Trace,
    flow: Flow,
    attention: Set[nn.Module] = frozenset(),
    look: Whole | None = None,
    frame: Frame | None = None,
) -> tuple[Merge, ...]:
    """The sums and concats of one host, in order; attention on a branch does not make it heavier.

    Args:
        look, frame: the whole model and the host's call in it, for sides that come from outside of the call.
    """
    merges: dict[Node, Merge] = {}
    weigh = _Scales(host, attention, look, frame)
    for node in traced.graph.nodes:
        terms = added(node) if node.users else ()
        if terms:
            merge = _sum(weigh, node, terms, flow, merges)
            merges[node] = merge
            if merge.kind == "symmetric" and merge.inner is not None:  # one more linear branch: the sum can be fused
                merges[merge.inner] = _symmetric(merges[merge.inner])
            continue
        merge = _difference(weigh, node, flow, merges) if node.users else None
        if merge is not None:
            merges[node] = merge
            continue
        parts = concatenated(node) if node.users else ()
        if parts:
            merges[node] = Merge(host, node, "cat", "concat", flow.common(parts), None, parts)
    return tuple(merges.values())


def _symmetric(merge: Merge) -> Merge:
    terms = added(merge.node)
    return replace(merge, kind="symmetric", identity=None, branches=terms, inner=None, outside=False)


def gates_of(host: nn.Module, traced: Trace, flow: Flow) -> tuple[Merge, ...]:
    """The products by which an activation is gated by a transform of itself."""
    gates: dict[Node, Merge] = {}
    for node in traced.graph.nodes:
        factors = multiplied(node) if node.users else None
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
    look: Whole | None
    frame: Frame | None

    def step(self, node: Node | None) -> Any:
        """What a node stands for in the whole model."""
        return None if self.look is None or self.frame is None or node is None else self.look.at(self.frame, node.name)

    def lighter(self, side: list[Step], others: list[list[Step]]) -> bool:
        """Whether a side has fewer layers in this call of the host than another has, or none."""
        assert self.look is not None
        within = set() if self.frame is None else set(self.look.within(self.frame))
        own, *rest = (sum(step.weights for step in way if step in within) for way in (side, *others))
        return own == 0 or own < max(rest)

    def ways(self, fork: Node | None, ends: Sequence[Node]) -> list[Step]:
        """The steps on the way to each end, one way behind the other; none where the whole model does not show them."""
        start, steps = self.step(fork), [self.step(end) for end in ends]
        if not isinstance(start, Step) or not all(isinstance(step, Step) for step in steps):
            return []
        return list(itertools.chain(*(between(start, step) for step in steps)))

    def like(self, fork: Node | None, ends: Sequence[Node]) -> bool:
        """Whether nothing on the ways is a bend (a low-rank update), or they are those of a pyramid."""
        steps = self.ways(fork, ends)
        return bool(steps) and (all(map(is_linear, steps)) or is_pyramid(self.step(fork), steps))

    def fusible(self, fork: Node | None, ends: Sequence[Node]) -> bool:
        """Whether the sides are written to become one layer, or are those of a pyramid.

        Each has linear layers of its own from the fork on. A number that scales one (shake-shake) says otherwise, and
        so does a norm that several share: no kernel takes it in.
        """
        steps = self.ways(fork, ends)
        own = len(set(steps)) == len(steps) and all(is_linear(step) and not is_scaling(step.node) for step in steps)
        return bool(steps) and (own or is_pyramid(self.step(fork), steps))

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
    like = Merge(host, node, "add", "symmetric", fork, None, terms, partial)
    inner = next((term for term in terms if term in merges and merges[term].partial), None)
    if inner is not None and merges[inner].residual and merges[inner].fork is fork:
        others = tuple(term for term in terms if term is not inner)
        if known and _is_fusion(scales, terms, fork, flow, merges):
            return replace(like, inner=inner)
        return Merge(host, node, "add", merges[inner].kind, fork, inner, others, partial, inner)
    if known and _is_fusion(scales, terms, fork, flow, merges):
        return like
    kind, identity = _kind(scales, terms, fork, flow) if known else ("symmetric", None)
    if kind == "projected" and scales.like(fork, [term for term in terms if term is not identity]):
        return like
    outside, start = False, None
    if identity is None and scales.look is not None:
        kind, identity, point = _across(scales, terms)
        fork = None if identity is None else _inside(scales, identity, point, flow, terms)
        outside = fork is None
        start = _beginning(scales, point, identity, terms) if outside else None
    if identity is None:
        return like
    others = tuple(term for term in terms if term is not identity)
    return Merge(host, node, "add", kind, fork, identity, others, partial, outside=outside, start=start)


def _difference(scales: _Scales, node: Node, flow: Flow, merges: dict[Node, Merge]) -> Merge | None:
    """A branch with layers that is subtracted from the identity (DnCNN). ``f(x) - x`` is what a sum goes on with."""
    terms = subtracted(node)
    merge = _sum(scales, node, terms, flow, merges) if terms else None
    if merge is None or merge.kind != "identity" or merge.identity is not terms[0] or merge.fork is None:
        return None
    layers = [scales.layers(flow.between(merge.fork, branch)) for branch in merge.branches]
    return replace(merge, partial=False) if all(layers) else None


def _beginning(
    scales: _Scales, point: Step | None, identity: Node | None, terms: tuple[Node, ...]
) -> tuple[nn.Module, Node, tuple[Node, ...]] | None:
    """Where a branch leaves what becomes the identity: who takes it there for the branch alone."""
    own, ends = scales.step(identity), [scales.step(term) for term in terms if term is not identity]
    if point is None or scales.look is None:
        return None
    users: list[Node] = []
    for user in point.node.users:
        steps = list(flat(scales.look.at(point.frame, user.name)))
        if any(leads(step, end) for step in steps for end in ends) and not any(leads(step, own) for step in steps):
            users.append(user)
    return (point.frame.module, point.node, tuple(users)) if users else None


def _inside(scales: _Scales, identity: Node, point: Step | None, flow: Flow, terms: tuple[Node, ...]) -> Node | None:
    """The node of the host that gives the fork; None where it lies outside of this call."""
    while scales.step(identity) is not point:
        before = sources(identity)
        if len(before) != 1:
            return None
        identity = before[0]
    return identity if flow.leads(identity, terms) else None


def _across(scales: _Scales, terms: tuple[Node, ...]) -> tuple[str, Node | None, Step | None]:
    """Kind, identity operand and fork, where the fork does not lie on every way to the sides, or outside of this call.

    The side that ends the identity branch goes back, through no layer or through one, to what the others are made from.
    """
    steps = [(term, step) for term in terms if isinstance(step := scales.step(term), Step)]
    answers: dict[str, tuple[Node, Step]] = {}
    for term, step in steps if len(steps) == len(terms) else ():
        others = [other for _, other in steps if other is not step]
        for point, bare, layers in _back(step):
            if point.tensor is None or not all(leads(point, other) for other in others):
                continue
            flat = step.tensor is None or step.tensor.ndim != point.tensor.ndim
            ways = [between(point, other) for other in others]
            deep = not flat and max((sum(each.weights for each in way) for way in ways), default=0) > max(1, layers)
            if not is_pyramid(point, [*itertools.chain(*ways)]):
                if bare and not all(all(map(_keeps, way)) for way in ways):
                    answers.setdefault("identity", (term, point))
                elif (
                    deep
                    and scales.lighter(between(point, step), ways)
                    and not all(map(is_linear, itertools.chain(*ways)))
                ):
                    answers.setdefault("projected", (term, point))
            break
    kind = next((kind for kind in _RESIDUAL if kind in answers), "symmetric")
    identity, fork = answers.get(kind, (None, None))
    return kind, identity, fork


def _back(step: Step) -> Iterator[tuple[Step, bool, int]]:
    """What a value is made from by one way, nearest first: whether unchanged, and by how many layers, one at most."""
    bare, layers = True, 0
    yield step, bare, layers
    while len(step.sources) == 1 and step.tensor is not None:  # a part of what was split is no identity of the whole
        bare, layers = bare and _keeps(step), layers + step.weights
        if layers > 1:
            return
        step = step.sources[0]
        yield step, bare, layers


def _keeps(step: Step) -> bool:
    return passes(step.node, step.frame.module) or _by_a_weight(step.node)


def _is_fusion(
    scales: _Scales, terms: tuple[Node, ...], fork: Node | None, flow: Flow, merges: dict[Node, Merge]
) -> bool:
    """Whether three or more branches meet that are single layers or linear: they can be one layer (RepVGG).

    A mean of branches is one branch: it averages what stays apart.
    """
    leaves: list[Node] = []
    pending = list(terms)
    while pending:
        term = _core(pending.pop(), scales.host)
        if term in merges and added(term) and len(term.users) == 1 and function_name(term) != "mean":
            pending.extend(added(term))
        else:
            leaves.append(term)
    ways = [flow.between(fork, leaf) for leaf in leaves]
    if len(leaves) < 3:
        return False
    if all(not scales.bare(way) and scales.layers(way) <= 1 for way in ways):
        return True
    return sum(scales.layers(way) > 0 for way in ways) > 1 and scales.fusible(fork, leaves)


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
    return function_name(node) in ("getitem", "clone", "contiguous", "dropout", "to", "alias", "detach")


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
