"""Sites and the search for them: behind a layer, at the end of a branch, at the output of a module."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import carries, is_scaling, sources, weight_layers
from sesurgery.anatomy.layer_kinds import Child, activates, drops, follows
from sesurgery.anatomy.merges import Merge
from sesurgery.anatomy.stages import resolution
from sesurgery.anatomy.whole import Step, flat
from sesurgery.placement.named_layers import Layer
from sesurgery.plans import Skip
from sesurgery.recording.recorder import has_own_forward, is_chain
from sesurgery.tracing.trace import Trace, output_of
from sesurgery.words.paths import below, join, outwards


@dataclass(frozen=True)
class Site:
    """A place in the graph of a host where a node can be put.

    Attributes:
        host: the module of the twin whose graph holds the site.
        value: the node whose activation is to be gated.
        users: the nodes that are to take the gated activation instead; every user where empty.
        role: a word for a name, where the plain one is taken: ``pre``, ``post``, ...
        layer: the layer that the site follows or precedes, if it is about one.
    """

    host: nn.Module
    value: Node
    users: tuple[Node, ...] = ()
    role: str = ""
    layer: Layer | None = None


def behind(anatomy: Anatomy, layer: Layer, bare: bool = False) -> Site | Skip:
    """The site behind a layer, its norm and activation, in the outermost host in which that is one place.

    Args:
        bare: the norm and the activation come after the site.
    """
    if layer.host is None or layer.node is None:
        return Skip(layer.path, "no forward that could be traced calls it")
    host, value = layer.host, layer.node

    def follower(node: Node, host: nn.Module) -> Node:
        return node if bare or preactivates(anatomy, host) else follow(node, host, follows)

    value = follower(value, host)
    while host not in anatomy.blocks and output_of(anatomy.survey.trace(host)) is value:
        caller = anatomy.survey.callers.get(host)
        if caller is None or caller[0] is anatomy.survey.twin:
            break
        host, value = caller[0], follower(caller[2], caller[0])
    return Site(host, value, (), "conv", layer)


def preactivates(anatomy: Anatomy, host: nn.Module) -> bool:
    """Whether a host's first convolution has its norm before it, as all of them have in a pre-activation block."""
    memo = anatomy.survey.memo
    if ("preactivates", host) not in memo:
        memo["preactivates", host] = _preactivates(anatomy, host)
    return memo["preactivates", host]


def _preactivates(anatomy: Anatomy, host: nn.Module) -> bool:
    traced, child = anatomy.survey.trace(host), host.get_submodule
    nodes = [] if traced is None else traced.graph.nodes
    first = next((node for node in nodes if weight_layers(node, child) and sources(node)), None)
    if first is None or is_chain(host):
        return False
    value, normed = sources(first)[0], False
    while follows(value, child) and sources(value):
        normed = normed or not activates(value, child)
        value = sources(value)[0]
    return normed and value.op == "placeholder"


def before(anatomy: Anatomy, layer: Layer) -> Iterator[Site | Skip]:
    """A site before each activation that a layer takes, which its other readers do not see gated."""
    if layer.host is None or layer.node is None:
        yield Skip(layer.path, "no forward that could be traced calls it")
        return
    for value in dict.fromkeys(node for node in layer.node.all_input_nodes if carries(node)):
        host, node = layer.host, layer.node
        while host not in anatomy.blocks and set(value.users) == {node} and value.op == "placeholder":
            caller = anatomy.survey.callers.get(host)
            given = None if caller is None else given_as(caller[2], host, value)
            if caller is None or given is None or caller[0] is anatomy.survey.twin:
                break
            host, node, value = caller[0], caller[2], given
        yield Site(host, value, (node,), "pre", layer)


def given_as(call: Node, host: nn.Module, parameter: Node) -> Node | None:
    """The argument of a host's call that is its ``parameter``; None where that is no one activation."""
    if parameter.target in call.kwargs:
        argument = call.kwargs[str(parameter.target)]
    else:
        names = [node.target for node in parameter.graph.nodes if node.op == "placeholder"]
        index = names.index(parameter.target)
        argument = call.args[index] if index < len(call.args) else None
    return argument if carries(argument) else None


def entry_sites(anatomy: Anatomy, module: nn.Module) -> list[Site]:
    """What a module with a forward of its own is given: a site for each activation, also those in a list."""
    traced = anatomy.survey.trace(module)
    if traced is None or not has_own_forward(module):
        return []
    given = [node for node in traced.graph.nodes if node.op == "placeholder"]
    parts = [node for node in traced.graph.nodes if node.target is operator.getitem and node.args[0] in given]
    return [Site(module, node, (), "pre") for node in (*given, *parts) if carries(node) and node.users]


def follow(node: Node, host: nn.Module, test: Callable[[Node, Child], bool]) -> Node:
    """The last of the nodes behind ``node`` that still belong to it; trailing identities and dropouts do not."""
    last = current = node
    while len(current.users) == 1:
        user = next(iter(current.users))
        if not test(user, host.get_submodule) or not carries(user):
            break
        current = user
        if not drops(user, host.get_submodule):
            last = current
    return last


def branch_end(anatomy: Anatomy, merge: Merge, end: Node) -> Node:
    """Walk back from the sum over what only drops or scales the branch."""
    child = merge.host.get_submodule
    value = end
    while value is not merge.fork:
        before = sources(value)
        if len(before) != 1 or not carries(before[0]) or before[0] is merge.fork:
            break
        if not (drops(value, child) or is_scaling(value) or _is_layer_scale(value, merge.host)):
            break
        if before[0].meta["val"].shape != value.meta["val"].shape:
            break
        value = before[0]
    return value


def _is_layer_scale(node: Node, host: nn.Module) -> bool:
    if node.op != "call_module":
        return False
    module = host.get_submodule(str(node.target))
    weights = list(module.parameters())
    return len(weights) == 1 and not list(module.children()) and "scale" in type(module).__name__.lower()


def output_sites(anatomy: Anatomy, module: nn.Module) -> list[Site]:
    """A site for each activation of the list, tuple or dict that a module with a forward of its own returns."""
    traced = anatomy.survey.trace(module)
    if traced is None or not has_own_forward(module):
        return []
    output = next(node for node in traced.graph.nodes if node.op == "output")
    return [Site(module, node, (output,), "end") for node in output.all_input_nodes if carries(node)]


def output_site(anatomy: Anatomy, module: nn.Module) -> Site | Skip:
    """The site at a module's output: in its own graph, or behind it where it is a layer."""
    survey = anatomy.survey
    module = _innermost(anatomy, module)
    path = survey.paths[module]
    traced = survey.trace(module)
    if isinstance(traced, Trace):
        value = output_of(traced)
        if value is None or not carries(value):
            several = output_sites(anatomy, module)
            return several[0] if len(several) == 1 else Skip(path, "it returns more than one activation")
        return Site(module, value, tuple(user for user in value.users if user.op == "output"), "end")
    if module in survey.callers:
        host, _, node = survey.callers[module]
        return Site(host, node, (), "end")
    return Skip(path, "neither its forward nor that of its caller could be traced")


def _innermost(anatomy: Anatomy, module: nn.Module) -> nn.Module:
    """The block (or layer) that gives a module's output, where the module only hands it on."""
    survey = anatomy.survey
    paths = [survey.paths[block] for block in anatomy.blocks if survey.paths[block]]
    holding = {survey.module(outer) for path in paths for outer in outwards(path)[:-1]}
    while module not in anatomy.blocks:
        traced = survey.trace(module)
        last = output_of(traced) if isinstance(traced, Trace) else None
        if last is None or last.op != "call_module" or len(last.users) != 1:
            break
        inner = module.get_submodule(str(last.target))
        if not is_chain(module) and inner not in holding:
            break
        module = inner
    return module


def wrapping(anatomy: Anatomy, block: nn.Module, alike: Collection[str]) -> nn.Module:
    """The outermost module around a block whose output still has the block's resolution, short of the model itself.

    Args:
        alike: paths of the blocks that may lie in it.
    """
    survey = anatomy.survey
    outermost = block
    frame = survey.frame(block)
    size = resolution(frame.output) if frame is not None and isinstance(frame.output, torch.Tensor) else None
    for path in outwards(survey.paths[block])[1:-1]:
        outer = survey.module(path)
        frame = survey.frame(outer)
        if frame is None:
            continue
        output = frame.output
        if not isinstance(output, torch.Tensor) or size is None or resolution(output) != size:
            break
        if any(below(survey.paths[other], path) and survey.paths[other] not in alike for other in anatomy.blocks):
            break
        outermost = outer
    return outermost


def where_it_comes_from(anatomy: Anatomy, site: Site) -> Site | None:
    """The same activation in the forward that makes it, where nobody else reads it: a host may get it in a list."""
    frame = anatomy.survey.frame(site.host)
    step = None if frame is None else anatomy.whole.at(frame, site.value.name)
    if frame is None or not isinstance(step, Step) or step.frame is frame or step in anatomy.whole.outputs:
        return None
    readers = {reader for user in site.users or site.value.users for reader in flat(anatomy.whole.at(frame, user.name))}
    maker = step.frame.module
    traced = anatomy.survey.trace(maker)
    node = next((node for node in traced.graph.nodes if node.name == step.node.name), None) if traced else None
    return Site(maker, node, (), site.role, site.layer) if node and set(step.users) <= readers else None


def where_it_goes(anatomy: Anatomy, site: Site) -> Site | None:
    """The same activation in the forward of the child that alone takes it: in a loop each child is another one."""
    survey = anatomy.survey
    users = site.users or tuple(site.value.users)
    frame = survey.frame(site.host)
    if frame is None or len(users) != 1 or users[0].op != "call_module":
        return None
    child = site.host.get_submodule(str(users[0].target))
    inside, traced = survey.frame(child), survey.trace(child)
    if inside is None or traced is None or survey.probe.calls[child] > 1 or len(survey.mounts[child]) > 1:
        return None
    step = anatomy.whole.at(frame, site.value.name)
    parameters = [node for node in traced.graph.nodes if node.op == "placeholder"]
    taken = [node for node in parameters if step is not None and anatomy.whole.at(inside, node.name) is step]
    if len(taken) != 1:
        return None
    moved = Site(child, taken[0], (), site.role, site.layer)
    return where_it_goes(anatomy, moved) if is_chain(child) else moved


def place_in(anatomy: Anatomy, host: nn.Module, node: Node) -> str:
    """How a node of a host's forward is called in messages."""
    return join(anatomy.survey.paths[host], node.name)


def place_of(anatomy: Anatomy, site: Site) -> str:
    """How a site is called in messages: the layer that it is about, or what gives its value."""
    return site.layer.path if site.layer is not None else value_place(anatomy, site)


def value_place(anatomy: Anatomy, site: Site) -> str:
    """The path of what gives a site's value: a module, or a node of the host's forward."""
    name = str(site.value.target) if site.value.op == "call_module" else site.value.name
    return join(anatomy.survey.paths[site.host], name)
