"""Where a phrase of ``at:`` points to in a model: sites.

A placement is a function from an anatomy to sites, found by its phrase in ``placement.registry``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import carries, sources, weight_layers
from sesurgery.anatomy.layer_kinds import activates, drops, pools
from sesurgery.anatomy.merges import Merge
from sesurgery.anatomy.regions import BACKBONE
from sesurgery.anatomy.stages import resolution
from sesurgery.anatomy.whole import Step
from sesurgery.placement.named_layers import Layer, attention_around, layers_of
from sesurgery.placement.registry import PLACEMENTS, Found, known
from sesurgery.placement.sites import (
    Site,
    before,
    behind,
    branch_end,
    entry_sites,
    follow,
    output_site,
    output_sites,
    place_in,
    place_of,
    wrapping,
)
from sesurgery.plans import Skip
from sesurgery.recipe.phrases import PHRASES, At, phrase_names
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.tracing.survey import hidden_in
from sesurgery.words.text import listed


def sites(anatomy: Anatomy, at: At) -> Iterator[Site | Skip]:
    """Every site that a phrase names, and the places that come near but will not do, with the reason."""
    for site in PLACEMENTS.find(at.name, where="at")(anatomy, at):
        if isinstance(site, Site) and not site.value.users:
            yield Skip(place_of(anatomy, site), "nobody reads it")
        else:
            yield site


def merges(anatomy: Anatomy, op: str) -> Iterator[tuple[nn.Module, Merge]]:
    """Every ``add``, ``cat`` or ``mul`` of branches outside of attention, with the host in whose forward it is."""
    attention = anatomy.attention
    for host, group in anatomy.merges.items():
        if hidden_in(anatomy.survey, host, attention):
            continue
        for merge in group:
            if merge.op == op:
                yield host, merge


def _listed(anatomy: Anatomy, op: str) -> Iterator[Merge | Skip]:
    """The merges of a kind, and those inside of attention with the reason."""
    for host, group in anatomy.merges.items():
        around = attention_around(anatomy, anatomy.survey.paths[host])
        for merge in group:
            if merge.op == op and around is None:
                yield merge
            elif merge.op == op and not merge.partial:
                yield Skip(place_in(anatomy, host, merge.node), f"a part of the attention {around}")


def _concats(anatomy: Anatomy) -> Iterator[Merge | Skip]:
    """The concats along the channels."""
    for merge in _listed(anatomy, "cat"):
        if isinstance(merge, Skip):
            yield merge
            continue
        value, node = merge.node.meta["val"], merge.node
        axis = channel_axis(value)
        along = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        if axis is not None and isinstance(along, int) and along % value.ndim != axis:
            shape = tuple(value.shape)
            why = f"it concatenates along axis {along % value.ndim}, and the channels of {shape} are axis {axis}"
            yield Skip(place_in(anatomy, merge.host, node), why)
        else:
            yield merge


def _residual(anatomy: Anatomy) -> Iterator[Merge | Skip]:
    for merge in _listed(anatomy, "add"):
        if isinstance(merge, Skip):
            yield merge
            continue
        host = merge.host
        if merge.residual and not _runs_layers(anatomy, merge):
            why = "no layer runs on its branch (a norm or an activation that adds its own input)"
            yield Skip(place_in(anatomy, host, merge.node), why)
        elif merge.residual:
            yield merge
        elif not merge.partial:
            why = "a sum of like branches (none is the identity)"
            yield Skip(place_in(anatomy, host, merge.node), why)


def _runs_layers(anatomy: Anatomy, merge: Merge) -> bool:
    """Whether a branch calls a layer, or computes with a kernel or a matrix of the host's own."""
    child, flow = merge.host.get_submodule, anatomy.flows[merge.host]
    return merge.outside or any(
        (node.op == "call_module" and not drops(node, child)) or weight_layers(node, child) > 0
        for end in merge.branches
        for node in flow.between(merge.fork, end)
    )


@known("before residual add")
def before_residual_add(anatomy: Anatomy, at: At) -> Found:
    """The end of each residual branch: before its dropouts, LayerScale and scalar factors, which stay in place."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
            continue
        for end in merge.branches:
            value = branch_end(anatomy, merge, end)
            flow = anatomy.flows[merge.host]
            inside = {*flow.between(merge.fork, end), merge.node}
            yield Site(merge.host, value, tuple(user for user in value.users if user in inside), "branch")


@known("after residual add")
def after_residual_add(anatomy: Anatomy, at: At) -> Found:
    """Behind the sum, and behind the activation that follows it."""
    continued = {merge.inner for group in anatomy.merges.values() for merge in group}
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
        elif merge.node not in continued:
            value = follow(merge.node, merge.host, activates)
            yield Site(merge.host, value, (), "post")


@known("after sum of like branches")
def after_sum_of_like_branches(anatomy: Anatomy, at: At) -> Found:
    """Behind the sum, and behind the activation that follows it."""
    for merge in _listed(anatomy, "add"):
        if isinstance(merge, Skip):
            yield merge
        elif merge.residual:
            yield Skip(
                place_in(anatomy, merge.host, merge.node), "a residual sum, no sum of like branches", meant=False
            )
        elif not merge.partial:
            yield Site(merge.host, follow(merge.node, merge.host, activates), (), "sum")


@known("start of residual branch")
def start_of_residual_branch(anatomy: Anatomy, at: At) -> Found:
    """Where the residual branch leaves the identity: only the branch sees the gated activation."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
            continue
        if merge.fork is None:
            site = _start_in_caller(anatomy, merge)
            yield site if isinstance(site, Site) or merge.start is None else _start_in_child(anatomy, *merge.start)
            continue
        flow = anatomy.flows[merge.host]
        identity = set(flow.between(merge.fork, merge.identity)) if merge.identity is not None else set()
        inside = {node for end in merge.branches for node in flow.between(merge.fork, end)} - identity
        users = tuple(user for user in merge.fork.users if user in inside)
        if users:
            yield Site(merge.host, merge.fork, users, "pre")
        else:
            yield Skip(place_in(anatomy, merge.host, merge.node), "the residual branch does not begin at the fork")


def _start_in_caller(anatomy: Anatomy, merge: Merge) -> Site | Skip:
    """Where a branch begins whose sides are two arguments of the host: in the forward that calls it."""
    place = place_in(anatomy, merge.host, merge.node)
    caller, traced, entry = anatomy.survey.callers.get(merge.host), anatomy.survey.trace(merge.host), merge.identity
    if caller is None or traced is None or entry is None or entry.op != "placeholder":
        return Skip(place, "its branch begins outside of this forward, and its identity is no argument of it")
    host, _, call = caller
    names = [node for node in traced.graph.nodes if node.op == "placeholder"]
    fork = (*call.args, *call.kwargs.values())[names.index(entry)]
    flow = anatomy.flows.get(host)
    if not isinstance(fork, Node) or flow is None:
        return Skip(place, "its branch begins further outside than where it is called")
    users = tuple(user for user in fork.users if user is not call and flow.leads(user, [call]))
    return Site(host, fork, users, "pre") if users else Skip(place, "its branch does not begin where it is called")


def _start_in_child(anatomy: Anatomy, host: nn.Module, value: Node, users: tuple[Node, ...]) -> Site | Skip:
    """Where a branch begins in the forward of a child, which returns what both sides are made from."""
    traced = anatomy.survey.trace(host)
    nodes = {} if traced is None else {node.name: node for node in traced.graph.nodes}
    if value.name not in nodes or not all(user.name in nodes for user in users):
        return Skip(anatomy.survey.paths[host], "its branch begins in a call of it that is not the one looked at")
    return Site(host, nodes[value.name], tuple(nodes[user.name] for user in users), "pre")


@known("on identity branch")
def on_identity_branch(anatomy: Anatomy, at: At) -> Found:
    """On the identity branch, behind its projection if it has one; the residual branch does not see it."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
        elif merge.inner is None and merge.identity is not None:
            yield Site(merge.host, merge.identity, merge.readers(merge.identity), "identity")


@known("before concat")
def before_concat(anatomy: Anatomy, at: At) -> Found:
    """The end of the branch that does most of the work; of every working branch, where there are more than two."""
    for merge in _concats(anatomy):
        if isinstance(merge, Skip):
            yield merge
            continue
        host, flow = merge.host, anatomy.flows[merge.host]
        work = {
            part: sum(weight_layers(node, host.get_submodule) for node in flow.between(merge.fork, part))
            for part in merge.branches
            if carries(part)
        }
        heavy = [part for part, layers in work.items() if layers > 0]
        if len(work) == 2 and len(set(work.values())) == 2:
            heavy = [max(work, key=work.__getitem__)]
        if not heavy:
            yield Skip(place_in(anatomy, host, merge.node), "no branch before this concat has weights of its own")
        for part in heavy:
            yield Site(host, part, merge.readers(part), "branch")


@known("after concat")
def after_concat(anatomy: Anatomy, at: At) -> Found:
    """Behind each concat of branches along the channels."""
    for merge in _concats(anatomy):
        yield merge if isinstance(merge, Skip) else Site(merge.host, merge.node, (), "concat")


@known("before pooling")
def before_pooling(anatomy: Anatomy, at: At) -> Found:
    """Before each pooling with a window that lies in no block: the end of a block of a plain network."""
    if anatomy.blocks:
        kinds = sorted({type(block).__name__ for block in anatomy.blocks})
        yield Skip("", f"this network is built of {listed(kinds)} blocks, not of plain runs between poolings")
        return
    for host, traced in anatomy.survey.chains_and_hosts():
        for node in traced.graph.nodes:
            if pools(node, host.get_submodule) and sources(node):
                yield Site(host, sources(node)[0], (node,), "pool")


@known("end of block")
def end_of_block(anatomy: Anatomy, at: At) -> Found:
    """What each block returns."""
    for block in anatomy.blocks:
        yield output_site(anatomy, block)


@known("end of stage")
def end_of_stage(anatomy: Anatomy, at: At) -> Found:
    """What the last block of each stage returns, or the module that wraps the stage."""
    for stage in anatomy.stages:
        if stage.blocks:
            yield output_site(anatomy, wrapping(anatomy, anatomy.survey.module(stage.blocks[-1]), stage.blocks))
    if not anatomy.blocks:
        yield from before_pooling(anatomy, at)


@known("end of backbone")
def end_of_backbone(anatomy: Anatomy, at: At) -> Found:
    """The last map of the backbone: where nothing is fused or enlarged yet, and maps are smallest."""
    end = anatomy.regions.end
    if isinstance(end, nn.Module):
        inside = [anatomy.survey.paths[block] for block, name in anatomy.regions.blocks.items() if name == BACKBONE]
        yield output_site(anatomy, wrapping(anatomy, end, inside))
    elif end is not None:
        yield _at_step(anatomy, end)


def _at_step(anatomy: Anatomy, step: Step) -> Site | Skip:
    """The site at a step of the model: behind the layer that it calls, or in the forward of its host."""
    calls = anatomy.survey.probe.calls
    if step.layer is not None and calls.get(step.layer, 0) <= 1:
        site = output_site(anatomy, step.layer)
        return site if isinstance(site, Skip) else replace(site, value=_merged(anatomy, site.host, site.value))
    host = step.frame.module
    traced = anatomy.survey.trace(host)
    node = next((node for node in traced.graph.nodes if node.name == step.node.name), None) if traced else None
    if node is None:
        return Skip(anatomy.survey.paths[host], "its forward could not be traced")
    return Site(host, node, (), "end")


def _merged(anatomy: Anatomy, host: nn.Module, value: Node) -> Node:
    """What a forward without blocks of its own adds its last feature map to, as a traced network does."""
    merges = {merge.node for merge in anatomy.merges.get(host, ())}
    last = value
    while len(value.users) == 1 and carries(value := next(iter(value.users))):
        if value in merges and resolution(value.meta["val"]) == resolution(last.meta["val"]):
            last = value
        elif value.op != "call_module" or host.get_submodule(str(value.target)) not in anatomy.attention:
            break
    return last


def _after(anatomy: Anatomy, at: At) -> Found:
    """Behind each layer that the phrase names."""
    bare = at.bare or at.layer in ("norm", "activation")
    for layer in layers_of(anatomy, at):
        yield layer if isinstance(layer, Skip) else behind(anatomy, layer, bare)


def _before(anatomy: Anatomy, at: At) -> Found:
    """Before each layer that the phrase names."""
    for layer in layers_of(anatomy, at):
        yield from (layer,) if isinstance(layer, Skip) else before(anatomy, layer)


for _name in phrase_names(["place"]):
    if PHRASES[_name].ordinal:
        known(_name)(_after if _name.startswith("after ") else _before)


@known("after module")
def after_module(anatomy: Anatomy, at: At) -> Found:
    """What each module gives; each activation, where it gives several."""
    return _once(_around_modules(anatomy, at, _outputs))


@known("before module")
def before_module(anatomy: Anatomy, at: At) -> Found:
    """Each activation that a module takes, where it enters the module's own forward, or where a layer is called."""
    return _once(_around_modules(anatomy, at, _inputs))


def _outputs(anatomy: Anatomy, layer: Layer, module: nn.Module) -> Found:
    site = output_site(anatomy, module)
    return (output_sites(anatomy, module) if isinstance(site, Skip) else []) or [site]


def _inputs(anatomy: Anatomy, layer: Layer, module: nn.Module) -> Found:
    return entry_sites(anatomy, module) or before(anatomy, layer)


def _around_modules(anatomy: Anatomy, at: At, sites: Callable[[Anatomy, Layer, nn.Module], Found]) -> Found:
    for layer in layers_of(anatomy, at):
        if isinstance(layer, Layer) and layer.module is not None:
            for site in sites(anatomy, layer, layer.module):
                yield site if isinstance(site, Skip) else replace(site, layer=layer)


def _once(sites: Found) -> Found:
    """The sites, each once: a wrapper and what it wraps may name the same place."""
    known_sites: set[tuple[nn.Module, Node, tuple[Node, ...]]] = set()
    for site in sites:
        key = None if isinstance(site, Skip) else (site.host, site.value, site.users)
        if key is None or key not in known_sites:
            yield site
        if key is not None:
            known_sites.add(key)
