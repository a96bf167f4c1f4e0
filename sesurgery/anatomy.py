"""What a surveyed model is made of: merges with their branches, gates, blocks and stages."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from math import isqrt

import torch
from torch import nn
from torch.fx import Node

from .axes import channel_axis
from .flow import Flow, added, concatenated, multiplied, own_weights, sources, weight_layers
from .marks import inserted_nodes
from .plan import MergeInfo, Stage
from .survey import Survey, has_own_forward
from .trace import Trace

_RESIDUAL = ("identity", "projected")
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Merge:
    """A node of a host where activations meet.

    Attributes:
        host: the module whose forward holds it.
        node: the ``add``, ``cat`` or ``mul``.
        op, kind: as in :class:`~sesurgery.plan.MergeInfo`.
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

    @property
    def residual(self) -> bool:
        """Whether one side is the identity (or a projection of it)."""
        return self.kind in _RESIDUAL


@dataclass(frozen=True)
class Anatomy:
    """A survey, understood.

    Attributes:
        merges: by host, in order.
        attention: the modules that gate their own input, and the nodes that an earlier operation inserted.
        blocks: the hosts that repeat, in the order of execution, with the number of their stage.
        stages: as reported.
    """

    survey: Survey
    merges: dict[nn.Module, tuple[Merge, ...]]
    flows: dict[nn.Module, Flow]
    attention: frozenset[nn.Module]
    blocks: dict[nn.Module, int]
    stages: tuple[Stage, ...]

    def block_of(self, path: str) -> nn.Module | None:
        """The innermost block that holds the module at ``path`` (or is it)."""
        by_path = {self.survey.paths[block]: block for block in self.blocks}
        parts = path.split(".") if path else []
        for end in range(len(parts), -1, -1):
            block = by_path.get(".".join(parts[:end]))
            if block is not None:
                return block
        return None

    def stage_of(self, value: torch.Tensor, path: str) -> int | None:
        """The stage of an activation made in the module at ``path``: its block's, or the one of its resolution."""
        block = self.block_of(path)
        if block is not None:
            return self.blocks[block]
        key = resolution(value)
        for stage in self.stages:
            if key is not None and (stage.height or 0) * (stage.width or 0) == key:
                return stage.index
        return None

    def reported_merges(self) -> tuple[MergeInfo, ...]:
        """Every merge, as data."""
        found = []
        for host, merges in self.merges.items():
            path = self.survey.paths[host]
            for merge in merges:
                value = merge.node.meta["val"]
                axis = channel_axis(value)
                channels = None if axis is None else value.shape[axis]
                place = f"{path}.{merge.node.name}" if path else merge.node.name
                found.append(MergeInfo(place, merge.op, merge.kind, self.stage_of(value, path), channels))
        return tuple(found)


def dissect(survey: Survey) -> Anatomy:
    """Find merges, blocks and stages of a surveyed model."""
    flows = {host: Flow.of(traced.graph) for host, traced in survey.hosts()}
    gates = {host: gates_of(host, traced, flows[host]) for host, traced in survey.hosts()}
    attention = inserted_nodes(survey.twin) | {host for host in flows if is_attention(survey, host, gates)}
    merges: dict[nn.Module, tuple[Merge, ...]] = {}
    for host, traced in survey.hosts():
        found = merges_of(host, traced, flows[host], attention) + gates[host]
        if found:
            merges[host] = found
    blocks = _blocks(survey, merges, attention)
    numbered, stages = _stages(survey, blocks or _kernels(survey))
    if not blocks:
        numbered, stages = {}, tuple(replace(stage, blocks=()) for stage in stages)
    return Anatomy(survey, merges, flows, frozenset(attention), numbered, stages)


def merges_of(host: nn.Module, traced: Trace, flow: Flow, attention: Set[nn.Module] = frozenset()) -> tuple[Merge, ...]:
    """The sums and concats of one host, in order; attention on a branch does not make it heavier."""
    found: dict[Node, Merge] = {}
    weigh = _Scales(host, attention)
    for node in traced.graph.nodes:
        terms = added(node)
        if terms:
            found[node] = _sum(weigh, node, terms, flow, found)
            continue
        parts = concatenated(node)
        if parts:
            found[node] = Merge(host, node, "cat", "concat", flow.common(parts), None, parts)
    return tuple(found.values())


def gates_of(host: nn.Module, traced: Trace, flow: Flow) -> tuple[Merge, ...]:
    """The products by which an activation is gated by a transform of itself."""
    found = []
    for node in traced.graph.nodes:
        factors = multiplied(node)
        gate = _gate(host, node, factors, flow) if factors else None
        if gate is not None:
            found.append(gate)
    return tuple(found)


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
        return all(self.gates(node) or _is_transparent(node, self.host) for node in way)


def _sum(scales: _Scales, node: Node, terms: tuple[Node, ...], flow: Flow, found: dict[Node, Merge]) -> Merge:
    host = scales.host
    fork = next((term for term in terms if flow.leads(term, terms)), None) or flow.common(terms)
    known = isinstance(fork, Node) and isinstance(fork.meta.get("val"), torch.Tensor)
    partial = _only_user_is_sum(node)
    inner = next((term for term in terms if term in found and found[term].partial), None)
    if inner is not None and found[inner].residual and found[inner].fork is fork:
        others = tuple(term for term in terms if term is not inner)
        return Merge(host, node, "add", found[inner].kind, fork, inner, others, partial, inner)
    if not known or _is_fusion(scales, terms, fork, flow, found):
        return Merge(host, node, "add", "symmetric", fork, None, terms, partial)
    kind, identity = _kind(scales, terms, fork, flow)
    branches = tuple(term for term in terms if term is not identity)
    return Merge(host, node, "add", kind, fork, identity, branches, partial)


def _is_fusion(scales: _Scales, terms: tuple[Node, ...], fork: Node | None, flow: Flow, found: dict[Node, Merge]) -> bool:
    """Whether three or more branches meet that are all single layers: a re-parameterisable sum (RepVGG), no residual."""
    leaves: list[Node] = []
    pending = list(terms)
    while pending:
        term = _core(pending.pop(), scales.host)
        if term in found and found[term].op == "add":
            pending.extend(added(term))
        else:
            leaves.append(term)
    ways = [flow.between(fork, leaf) for leaf in leaves]
    return len(leaves) > 2 and all(not scales.bare(way) and scales.layers(way) <= 1 for way in ways)


def _core(node: Node, host: nn.Module) -> Node:
    """The node behind dropouts and identities that have no other use for it."""
    while node.op == "call_module" and _is_transparent(node, host) and len(sources(node)) == 1:
        if len(sources(node)[0].users) > 1:
            break
        node = sources(node)[0]
    return node


def _only_user_is_sum(node: Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and len(added(users[0])) > 1


def _kind(scales: _Scales, terms: tuple[Node, ...], fork: Node | None, flow: Flow) -> tuple[str, Node | None]:
    """Which operand ends the identity branch: the one without weights, or with the lighter projection."""
    branches = {term: flow.between(fork, term) for term in terms}
    weights = {term: scales.layers(branches[term]) for term in terms}
    bare = [term for term in terms if scales.bare(branches[term])]
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


def _is_transparent(node: Node, host: nn.Module) -> bool:
    """Whether a node passes an activation on unchanged: nothing, a dropout, or a choice out of a list."""
    if node.op == "call_module":
        module = host.get_submodule(str(node.target))
        return isinstance(module, _TRANSPARENT) or (not list(module.parameters()) and passes_through(module, node))
    return node.op in ("call_function", "call_method") and (
        getattr(node.target, "__name__", node.target) in ("getitem", "clone", "contiguous", "dropout", "to")
    )


def passes_through(module: nn.Module, node: Node) -> bool:
    """Whether a module is a dropout of some kind (it keeps the activation in eval mode): by what it is made of."""
    name = type(module).__name__.lower()
    return isinstance(module, _TRANSPARENT) or any(word in name for word in ("drop", "stochasticdepth", "identity"))


def _gate(host: nn.Module, node: Node, factors: tuple[Node, Node], flow: Flow) -> Merge | None:
    """A product of an activation with a transform of itself that has weights, or that is pooled and squashed."""
    fork = flow.common(factors)
    if fork not in factors:
        return None
    gated, gate = (factors[0], factors[1]) if fork is factors[0] else (factors[1], factors[0])
    way = flow.between(gated, gate)
    if not way or len(gated.meta["val"].shape) != len(node.meta["val"].shape):
        return None
    weights = sum(weight_layers(step, host.get_submodule) for step in way)
    children = [host.get_submodule(str(step.target)) for step in way if step.op == "call_module"]
    weights += sum(bool(own_weights(part)) for child in children for part in child.modules())
    if not weights and not (_is_squashed(gate, host) and _is_pooled(gate, gated)):
        return None
    return Merge(host, node, "mul", "gate", fork, gated, (gate,))


def _is_squashed(gate: Node, host: nn.Module) -> bool:
    name = gate.target
    if gate.op == "call_module":
        name = type(host.get_submodule(str(gate.target))).__name__
    text = getattr(name, "__name__", str(name)).lower()
    return any(word in text for word in ("sigmoid", "tanh", "softmax"))


def _is_pooled(gate: Node, gated: Node) -> bool:
    return gate.meta["val"].numel() < gated.meta["val"].numel()


def _blocks(
    survey: Survey, merges: dict[nn.Module, tuple[Merge, ...]], attention: Set[nn.Module]
) -> list[nn.Module]:
    """The repeating units: hosts of residual sums, and the composite members of a chain that hold no other block."""
    outermost: list[nn.Module] = []
    for host, found in merges.items():
        if host in attention or host is survey.twin:
            continue
        if any(merge.residual for merge in found) and not _inside(survey, host, outermost + list(attention)):
            outermost.append(host)
    chosen = set(outermost)
    candidates = [
        module
        for module in survey.probe.frames
        if module not in attention
        and _is_composite(module)
        and _in_chain(survey, module)
        and not _inside(survey, module, list(attention))
    ]
    # Innermost first; those in which branches meet come before those that are mere chains.
    candidates.sort(key=lambda module: (module not in merges, -survey.paths[module].count(".")))
    for module in candidates:
        if not _touches(survey, module, chosen) and module not in chosen:
            chosen.add(module)
    return [module for module in survey.probe.frames if module in chosen]


def is_attention(survey: Survey, module: nn.Module, merges: dict[nn.Module, tuple[Merge, ...]]) -> bool:
    """Whether a module returns its own input, gated: attention that is already there."""
    traced = survey.trace(module)
    if not isinstance(traced, Trace):
        return False
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    gates = {merge.node: merge for merge in merges.get(module, ()) if merge.kind == "gate"}
    while isinstance(output, Node):
        if output in gates:
            gated = gates[output].identity
            return gated is not None and gated.op == "placeholder"
        if output.op != "call_module" or not isinstance(output.args[0] if output.args else None, Node):
            return False
        if not is_attention(survey, module.get_submodule(str(output.target)), merges):
            return False
        if output.args[0].op == "placeholder":  # type: ignore[union-attr]
            return True
        output = output.args[0]
    return False


def _is_composite(module: nn.Module) -> bool:
    """Whether a module is more than a convolution with its norm and activation: two layers with kernels or matrices."""
    if type(module) is nn.Sequential or not (has_own_forward(module) or isinstance(module, nn.Sequential)):
        return False
    return sum(any(weight.ndim >= 2 for weight in own_weights(part)) for part in module.modules()) >= 2


def _in_chain(survey: Survey, module: nn.Module) -> bool:
    """Whether a module is one of several of its kind beside each other, or in a Sequential or a list."""
    path = survey.paths[module]
    if not path:
        return False
    parent = survey.module(path.rpartition(".")[0])
    if isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    return sum(type(child) is type(module) for child in parent.children()) > 1


def _inside(survey: Survey, module: nn.Module, others: list[nn.Module]) -> bool:
    path = survey.paths[module]
    return any(path.startswith(survey.paths[other] + ".") for other in others)


def _touches(survey: Survey, module: nn.Module, others: set[nn.Module]) -> bool:
    """Whether a module lies in one of the others or holds one."""
    path = survey.paths[module]
    for other in others:
        theirs = survey.paths[other]
        if path.startswith(theirs + ".") or theirs.startswith(path + "."):
            return True
    return False


def _kernels(survey: Survey) -> list[nn.Module]:
    """The convolutions of a network without blocks, whose resolutions then number its stages."""
    return [
        module
        for module in survey.probe.frames
        if not list(module.children()) and any(weight.ndim >= 3 for weight in own_weights(module))
    ]


def resolution(value: torch.Tensor) -> int | None:
    """Number of places of an activation: height times width of a map, length of a sequence."""
    axis = channel_axis(value)
    if axis is None or value.ndim < 3:
        return None
    space = [size for index, size in enumerate(value.shape) if index not in (0, axis)]
    return space[-1] * space[-2] if len(space) >= 2 else space[0]


def _stages(survey: Survey, blocks: list[nn.Module]) -> tuple[dict[nn.Module, int], tuple[Stage, ...]]:
    """Number the resolutions of the blocks' outputs in the order of execution."""
    members: dict[int, list[nn.Module]] = {}
    sizes: dict[int, tuple[int | None, int | None]] = {}
    for block in blocks:
        value = _output_tensor(survey, block)
        places = None if value is None else resolution(value)
        if value is None or places is None or places == 1:
            continue
        key = next((known for known in members if known == places or _with_prefix(known, places)), places)
        members.setdefault(key, []).append(block)
        sizes.setdefault(key, _height_width(value, key))
    numbered: dict[nn.Module, int] = {}
    stages: list[Stage] = []
    for index, (key, found) in enumerate(members.items(), start=1):
        numbered.update(dict.fromkeys(found, index))
        area = survey.input_area
        reduction = round((area / key) ** 0.5, 2) if area and key else None
        height, width = sizes[key]
        stages.append(Stage(index, reduction, height, width, tuple(survey.paths[block] for block in found)))
    return {block: numbered[block] for block in blocks if block in numbered}, tuple(stages)


def _with_prefix(one: int, two: int) -> bool:
    """Whether two token counts differ by a class token or a few registers only."""
    low, high = sorted((one, two))
    return isqrt(low) ** 2 == low and 0 < high - low <= 8 and low > 64


def _height_width(value: torch.Tensor, places: int) -> tuple[int | None, int | None]:
    axis = channel_axis(value)
    space = [size for index, size in enumerate(value.shape) if index not in (0, axis)]
    if len(space) >= 2:
        return space[-2], space[-1]
    side = next((isqrt(places - extra) for extra in range(9) if isqrt(places - extra) ** 2 == places - extra), None)
    return side, side


def _output_tensor(survey: Survey, module: nn.Module) -> torch.Tensor | None:
    frame = survey.frame(module)
    if frame is None:
        return None
    leaves = torch.utils._pytree.tree_leaves(frame.output)
    return next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim >= 3), None)
