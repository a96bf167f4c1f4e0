"""What a surveyed model is made of: merges with their branches, gates, blocks and stages."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.fx import GraphModule, Node

from sesurgery.anatomy.dataflow import Flow, own_weights, weight_layers
from sesurgery.anatomy.existing_attention import Gated
from sesurgery.anatomy.merges import Merge, gates_of, merges_of
from sesurgery.anatomy.regions import BACKBONE, HEAD, NECK, Regions, regions_of
from sesurgery.anatomy.stages import Unit, dilation_of, resolution, stages_of
from sesurgery.anatomy.whole import Whole
from sesurgery.operating.backup import inserted_layers
from sesurgery.plans import MergeInfo, Stage
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.nested import tensors_in
from sesurgery.recording.recorder import has_own_forward
from sesurgery.tracing.survey import Survey, hidden_in
from sesurgery.tracing.trace import Trace
from sesurgery.words.paths import join, outwards


@dataclass(frozen=True)
class Anatomy:
    """A survey, understood.

    Attributes:
        merges: by host, in order.
        attention: the modules that gate their own input, and the nodes that an earlier operation inserted.
        gated: finds attention at a place, however it is written.
        blocks: the hosts that repeat, in the order of execution, with the number of their stage.
        stages: as reported, counted in each region.
        regions: backbone, neck and head.
        whole: the dataflow of the whole model.
    """

    survey: Survey
    merges: dict[nn.Module, tuple[Merge, ...]]
    flows: dict[nn.Module, Flow]
    attention: frozenset[nn.Module]
    gated: Gated
    blocks: dict[nn.Module, int]
    stages: tuple[Stage, ...]
    regions: Regions
    whole: Whole

    def block_of(self, path: str) -> nn.Module | None:
        """The innermost block that holds the module at ``path`` (or is it)."""
        return next((self._by_path[outer] for outer in outwards(path) if outer in self._by_path), None)

    @functools.cached_property
    def _by_path(self) -> dict[str, nn.Module]:
        return {self.survey.paths[block]: block for block in self.blocks}

    def region_of(self, host: nn.Module, node: Node | None = None) -> str:
        """Backbone, neck or head: of a node of a host, or of what the host gives."""
        frame = self.survey.frame(host)
        region = self.regions.of_module(frame) if node is None else self.regions.at(frame, node.name)
        return region or self.regions.blocks.get(host, BACKBONE)

    def stages_in(self, region: str | None) -> tuple[Stage, ...]:
        """The stages of a region, those of the backbone where none is named."""
        return tuple(stage for stage in self.stages if stage.region == (region or BACKBONE))

    def members(self, stage: int | None, region: str) -> list[nn.Module]:
        """The blocks of a stage."""
        regions = self.regions.blocks
        return [block for block, number in self.blocks.items() if number == stage and regions[block] == region]

    def stage_of(self, value: torch.Tensor | None, path: str, region: str = BACKBONE) -> int | None:
        """The stage of an activation made in the module at ``path``: its block's, or the one of its resolution."""
        block = self.block_of(path)
        if block is not None or value is None:
            return None if block is None else self.blocks[block]
        size = resolution(value)
        alike = [stage for stage in self.stages_in(region) if size and (stage.height or 0) * (stage.width or 0) == size]
        return alike[0].index if alike else None

    def attention_modules(self) -> list[nn.Module]:
        """The outermost modules that are attention, in the order of execution; those never called come last."""
        frames, paths = self.survey.probe.frames, self.survey.paths
        known = [module for module in self.attention if paths[module]]
        modules = [module for module in frames if module in set(known)]
        modules += [module for module in known if module not in frames]
        return [module for module in modules if not _inside(self.survey, module, set(known))]

    def written_gates(self) -> Iterator[Merge]:
        """The gates in forwards of hosts that are no attention modules themselves."""
        modules = set(self.attention_modules())
        for host, merges in self.merges.items():
            if not hidden_in(self.survey, host, modules):
                yield from (merge for merge in merges if merge.kind == "gate")

    def reported_merges(self) -> tuple[MergeInfo, ...]:
        """Every merge, as data."""
        infos = []
        for host, merges in self.merges.items():
            path = self.survey.paths[host]
            for merge in merges:
                value = merge.node.meta["val"]
                axis = channel_axis(value)
                channels = None if axis is None else value.shape[axis]
                place = join(path, merge.node.name)
                region = self.region_of(host, merge.node)
                stage = self.stage_of(value, path, region)
                infos.append(MergeInfo(place, merge.op, merge.kind, stage, channels, region))
        return tuple(infos)


def dissect(survey: Survey) -> Anatomy:
    """Find merges, blocks and stages of a surveyed model."""
    hosts = list(survey.hosts())
    shared = {traced: host for host, traced in reversed(hosts)}  # equal hosts are looked at once
    ways = {traced: Flow.of(traced.graph) for traced in shared}
    flows = {host: ways[traced] for host, traced in hosts}
    gates = _of_equal(hosts, {traced: gates_of(host, traced, ways[traced]) for traced, host in shared.items()})
    gated = Gated(survey, gates)
    attention = inserted_layers(survey.twin) | {host for host in flows if gated.is_attention(host)}
    whole = Whole(survey)
    merges: dict[nn.Module, tuple[Merge, ...]] = {}
    for host, traced in survey.hosts():
        host_merges = merges_of(host, traced, flows[host], attention, whole, survey.frame(host)) + gates[host]
        if host_merges:
            merges[host] = host_merges
    blocks = _blocks(survey, merges, attention)
    residual = [block for block in blocks if any(merge.residual for merge in merges.get(block, ()))]
    regions = regions_of(survey, whole, blocks, residual)
    numbers: dict[nn.Module, int] = {}
    stages: list[Stage] = []
    units = _units(survey, blocks, merges, flows, regions)
    for region in (BACKBONE, NECK, HEAD):
        numbered, found = stages_of(survey, [unit for unit in units if unit.region == region], region)
        numbers |= numbered
        stages += found
    numbers = {block: numbers[block] for block in blocks if block in numbers}
    return Anatomy(survey, merges, flows, frozenset(attention), gated, numbers, tuple(stages), regions, whole)


def _of_equal(
    hosts: list[tuple[nn.Module, Trace]], shared: dict[Trace, tuple[Merge, ...]]
) -> dict[nn.Module, tuple[Merge, ...]]:
    """The merges of each host: those of the host that it shares a trace with, as its own."""
    return {host: tuple(replace(merge, host=host) for merge in shared[traced]) for host, traced in hosts}


def _units(
    survey: Survey,
    blocks: list[nn.Module],
    merges: dict[nn.Module, tuple[Merge, ...]],
    flows: dict[nn.Module, Flow],
    regions: Regions,
) -> list[Unit]:
    """What makes the stages: blocks; else residual sums, else concats, else convolutions."""
    if blocks:
        outputs = ((block, _output_tensor(survey, block)) for block in blocks)
        return [
            Unit(value, regions.blocks[block], dilation_of(block.modules()), block)
            for block, value in outputs
            if value is not None
        ]
    every = [merge for group in merges.values() for merge in group]
    for chosen in ([merge for merge in every if merge.residual], [merge for merge in every if merge.op == "cat"]):
        if chosen:
            sums = [
                Unit(
                    merge.node.meta["val"],
                    regions.at(survey.frame(merge.host), merge.node.name) or BACKBONE,
                    _dilation(merge, flows[merge.host]),
                )
                for merge in chosen
            ]
            return _plain_blocks_ahead(survey, chosen[0], regions) + sums
    values = ((module, _output_tensor(survey, module)) for module in _kernels(survey))
    return [
        Unit(value, regions.of_module(survey.frame(module)) or BACKBONE)
        for module, value in values
        if value is not None and resolution(value) != 1
    ]


def _plain_blocks_ahead(survey: Survey, first: Merge, regions: Regions) -> list[Unit]:
    """What a traced network runs before its first sum in blocks that have none: members of a chain, by their paths."""
    host = first.host
    if not isinstance(host, GraphModule):
        return []
    ends: dict[str, Node] = {}
    kernels: Counter[str] = Counter()
    for node in first.node.graph.nodes:
        if node is first.node:
            break
        for path in outwards(str(node.target))[1:-1] if node.op == "call_module" else ():
            if path.rpartition(".")[2].isdigit():
                ends[path] = node
                kernels[path] += weight_layers(node, host.get_submodule)
    inside = {outer for node in _branch_nodes(first, Flow.of(first.node.graph)) for outer in outwards(str(node.target))}
    outermost = [path for path in ends if not any(outer in ends for outer in outwards(path)[1:])]
    frame = survey.frame(host)
    return [
        Unit(ends[path].meta["val"], regions.at(frame, ends[path].name) or BACKBONE)
        for path in outermost
        if kernels[path] > 1 and path not in inside
    ]


def _branch_nodes(merge: Merge, flow: Flow) -> list[Node]:
    return [n for end in merge.branches for n in flow.between(merge.fork, end) if n.op == "call_module"]


def _dilation(merge: Merge, flow: Flow) -> int:
    layers = [merge.host.get_submodule(str(node.target)) for node in _branch_nodes(merge, flow)]
    return dilation_of(part for layer in layers for part in layer.modules())


def _blocks(survey: Survey, merges: dict[nn.Module, tuple[Merge, ...]], attention: Set[nn.Module]) -> list[nn.Module]:
    """The repeating units: hosts of residual sums, and the composite members of a chain that hold no other block."""
    chosen: set[nn.Module] = set()
    for host, host_merges in merges.items():
        if (
            host in attention
            or host is survey.twin
            or _inside(survey, host, attention)
            or _inside(survey, host, chosen)
        ):
            continue
        if any(merge.residual for merge in host_merges):
            chosen.add(host)
    candidates = [
        module
        for module in survey.probe.frames
        if module not in attention
        and _is_composite(module)
        and _in_chain(survey, module)
        and not _inside(survey, module, attention)
    ]
    # Innermost first; those in which branches meet come before those that are mere chains.
    candidates.sort(key=lambda module: (module not in merges, -survey.paths[module].count(".")))
    holding = {outer for module in chosen for outer in _around(survey, module)}
    for module in candidates:
        if module not in chosen and module not in holding and not _inside(survey, module, chosen):
            chosen.add(module)
            holding.update(_around(survey, module))
    return [module for module in survey.probe.frames if module in chosen]


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
    key = ("kinds of children", parent)
    if key not in survey.memo:
        survey.memo[key] = Counter(type(child) for child in parent.children())
    return survey.memo[key][type(module)] > 1


def _around(survey: Survey, module: nn.Module) -> Iterator[nn.Module]:
    """The modules that hold a module, the innermost first, without the model itself."""
    return (survey.at[path] for path in outwards(survey.paths[module])[1:-1])


def _inside(survey: Survey, module: nn.Module, others: Set[nn.Module]) -> bool:
    return any(outer in others for outer in _around(survey, module))


def _kernels(survey: Survey) -> list[nn.Module]:
    """The convolutions of a network without blocks, whose resolutions then number its stages."""
    return [
        module
        for module in survey.probe.frames
        if not list(module.children()) and any(weight.ndim >= 3 for weight in own_weights(module))
    ]


def _output_tensor(survey: Survey, module: nn.Module) -> torch.Tensor | None:
    frame = survey.frame(module)
    if frame is None:
        return None
    return next((tensor for tensor in tensors_in(frame.output) if tensor.ndim >= 3), None)
