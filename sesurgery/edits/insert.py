"""The edit ``insert``: a layer of the registry at a site."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import carries, sources
from sesurgery.anatomy.layer_kinds import drops, function_name
from sesurgery.edits.child_swap import difference, digest
from sesurgery.edits.kinds import Proposal, Target, edit_kind
from sesurgery.errors import Unfit
from sesurgery.operating.backup import mark_of
from sesurgery.placement.inherited_options import layer_of, port_of, resolve, size_notes
from sesurgery.placement.notes import notes_on
from sesurgery.placement.placements import sites
from sesurgery.placement.routes import in_turns, insertion, last_layer, possible_paths
from sesurgery.placement.sites import Site, place_of, value_place, where_it_comes_from, where_it_goes
from sesurgery.plans import AppendBehind, AttentionLayer, Cost, Insertion, Skip, Swap, SwapChild
from sesurgery.recipe.rules import Insert, Rule
from sesurgery.recording.channel_axes import are_samples_mixed, sample_axis
from sesurgery.recording.costs import measured
from sesurgery.recording.nested import batch_of
from sesurgery.recording.recorder import is_chain
from sesurgery.substitutes.registry import on_meta
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import join
from sesurgery.words.text import reason


@dataclass(frozen=True)
class _Spot:
    """A site, its number in its host, and the names that this rule gives in each host so far."""

    site: Site
    ordinal: int
    names: dict[nn.Module, set[str]]


@edit_kind
class InsertKind:
    """Puts a layer at every site that ``at:`` names and ``where:`` leaves."""

    action = "insert"

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
        """The sites."""
        names: dict[nn.Module, set[str]] = defaultdict(set)
        ordinals: Counter[nn.Module] = Counter()
        assert rule.node is not None
        for site in sites(anatomy, rule.place):
            if isinstance(site, Skip):
                yield site
                continue
            spot = _Spot(site, ordinals[site.host], names)
            ordinals[site.host] += 1
            holder = anatomy.survey.paths[site.host]
            paths = possible_paths(anatomy.survey, site, spot.ordinal, rule.node)
            paths = (value_place(anatomy, site), *paths)
            yield Target(place_of(anatomy, site), spot, holder, site.value.meta["val"], site.layer, paths, site.value)

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """A layer that fits the site, and the route by which it gets there."""
        survey, spot, edit = anatomy.survey, target.subject, rule.edit
        assert isinstance(edit, Insert)
        site: Site = spot.site
        value: torch.Tensor = site.value.meta["val"]
        port = port_of(value)
        _refuse_mixed_samples(value)
        _refuse_kernel_of_its_own(site.value)
        options = resolve(anatomy, edit.module, edit.options, site.host, port)
        present = _present(anatomy, site)
        if present is not None and rule.if_present == "refuse":
            raise Unfit(f"already has attention: {present}; use if_present: stack | replace")
        layer = layer_of(edit.module, port, options)
        params, macs = 0, 0
        if present is not None and rule.if_present == "replace":
            path = join(target.holder, present)
            change, host = _swapped(survey, path, layer), survey.module(path.rpartition(".")[0])
            old = survey.module(path)
            params, macs = difference(survey, {old: on_meta(layer, old)})
        else:
            change, host, name = _route(anatomy, spot, edit, layer)
            path = join(survey.paths[host], name)
            params, macs = layer_cost(survey, layer, host, _inputs(survey, layer, site, change, host))
        notes = (*notes_on(survey, host, change), *size_notes(layer))
        return Proposal(path, change, layer.module, params, macs, notes)


def _route(anatomy: Anatomy, spot: _Spot, edit: Insert, layer: AttentionLayer) -> tuple[Insertion, nn.Module, str]:
    """How a layer gets to a site: in the forward that has it, else in the one that makes it or that takes it."""
    survey, site, names = anatomy.survey, spot.site, spot.names
    try:
        return insertion(survey, site, spot.ordinal, edit, layer, names)
    except Unfit:
        for same in (where_it_comes_from(anatomy, site), where_it_goes(anatomy, site)):
            if same is not None:
                with contextlib.suppress(Unfit):
                    return insertion(survey, same, spot.ordinal, edit, layer, names)
        by_turns = in_turns(survey, site, spot.ordinal, edit, layer, names)
        if by_turns is None:
            raise
        return by_turns


def _refuse_kernel_of_its_own(node: Node | None) -> None:
    """Raise ``Unfit`` where each sample has its own kernel, for which all of them lie in the channels of one.

    So it is in dynamic convolutions, as long as nothing has given the samples their axis back.
    """
    while node is not None and not function_name(node).startswith("conv"):
        before = sources(node)
        alike = len(before) == 1 and carries(before[0]) and before[0].meta["val"].shape == node.meta["val"].shape
        node = before[0] if alike and function_name(node) not in ("view", "reshape") else None
    weight = None if node is None else node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
    if carries(weight):
        raise Unfit("its kernels are made from the input, and the channels of all samples may lie in one there")


def _refuse_mixed_samples(value: torch.Tensor) -> None:
    """Raise ``Unfit`` where the samples of an activation lie elsewhere than along its first axis."""
    axis, shape = sample_axis(value), tuple(value.shape)
    if value.is_complex():
        raise Unfit(f"{shape} holds complex numbers, which no layer takes")
    if axis:
        named = f"{shape} is (L, N, C): its samples lie" if (axis, value.ndim) == (1, 3) else f"samples of {shape} lie"
        raise Unfit(f"{named} on axis {axis}, and a node would mix them")
    if value.ndim == 3 and are_samples_mixed(value):
        raise Unfit(
            f"which axis of {shape} holds the samples cannot be derived: a layer mixes what lies along the first axis "
            "of the model's input"
        )


def _swapped(survey: Survey, path: str, layer: AttentionLayer) -> SwapChild:
    try:
        old = survey.module(path)
    except AttributeError:
        raise Unfit("its attention is written in its forward; another rule can replace it, at: attention") from None
    return SwapChild((Swap(path, digest(old), layer),))


def _inputs(
    survey: Survey, layer: AttentionLayer, site: Site, change: Insertion, host: nn.Module
) -> list[tuple[int, ...]]:
    """The shapes that a layer at a site takes in one forward, by the route that leads there."""
    if isinstance(change, AppendBehind):
        outputs = (frame.output for frame in survey.frames[host])
        return [tuple(value.shape) for value in outputs if isinstance(value, torch.Tensor)]
    if host is site.host:
        return values_of(survey, host, site.value)
    return [layer.shape] * survey.probe.calls.get(host, 1)


def values_of(survey: Survey, host: nn.Module, value: Node) -> list[tuple[int, ...]]:
    """The shapes of an activation in all calls of its host."""
    nodes = (node for frame in survey.frames[host] if frame.graph for node in frame.graph.nodes)
    return [tuple(node.meta["val"].shape) for node in nodes if node.name == value.name]


def layer_cost(
    survey: Survey, layer: AttentionLayer, host: nn.Module, shapes: list[tuple[int, ...]]
) -> tuple[int, int]:
    """Parameters of a layer, and its MACs for one sample, on all that it takes in one forward."""
    shapes = shapes if survey.probe.calls.get(host, 0) > 1 and shapes else [layer.shape]
    costs = [_cost_on(survey, layer, shape) for shape in shapes]
    return costs[0].params, sum(cost.macs for cost in costs) // batch_of(survey.args)


def _cost_on(survey: Survey, layer: AttentionLayer, shape: tuple[int, ...]) -> Cost:
    """The cost of a layer on an activation of this shape; raises ``Unfit`` where it does not bear it."""
    key = ("layer", layer.module, layer.shape, layer.axis, repr(sorted(layer.options.items())), shape)
    if key not in survey.memo:
        try:
            output, cost = measured(on_meta(layer, None), torch.empty(shape, device="meta"))
        except Exception as error:
            if shape == layer.shape:
                raise
            raise Unfit(f"{layer.module} fails in another call of its host, on {shape}: {reason(error)}") from None
        if getattr(output, "shape", None) != shape:
            raise Unfit(f"{layer.module} does not give the shape that it takes, {shape}")
        survey.memo[key] = cost
    return survey.memo[key]


def _present(anatomy: Anatomy, site: Site) -> str | None:
    """The child of the host that already gates this very place, if there is one."""
    host = site.host
    near = [site.value, *_beyond_drops(host, site.users or site.value.users)]
    for node in near:
        if node.op == "call_module" and host.get_submodule(str(node.target)) in anatomy.attention:
            return str(node.target)
    if is_chain(host) and site.value.op == "call_module":
        child = last_layer(host.get_submodule(str(site.value.target)))
        mark = mark_of(child)
        if mark is not None and mark.layers:
            return f"{site.value.target}.{mark.layers[-1]}"
    for merge in anatomy.merges.get(host, ()):
        if merge.kind == "gate" and (site.value is merge.node or merge.node in near):
            return merge.node.name
    return anatomy.gated.where(host, site.value)


def _beyond_drops(host: nn.Module, nodes: Iterable[Node]) -> list[Node]:
    """The nodes, and those behind a dropout or an identity among them (EfficientNet's ``aa`` stands before its SE)."""
    near = list(nodes)
    for node in near:
        if drops(node, host.get_submodule):
            near += [user for user in node.users if user not in near]
    return near
