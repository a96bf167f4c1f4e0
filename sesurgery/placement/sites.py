"""Sites and the search for them: behind a layer, at the end of a branch, at the output of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import carries, is_scaling, sources
from sesurgery.anatomy.layer_kinds import Child, drops, follows
from sesurgery.anatomy.merges import Merge
from sesurgery.anatomy.stages import resolution
from sesurgery.plans import Skip
from sesurgery.recording.compat import AdaptiveAvgPool, AdaptiveMaxPool
from sesurgery.tracing.survey import hidden_in
from sesurgery.tracing.trace import Trace
from sesurgery.words.paths import below, join, outwards


@dataclass(frozen=True)
class Site:
    """A place in the graph of a host where a node can be put.

    Attributes:
        host: the module of the twin whose graph holds the site.
        value: the node whose activation is to be gated.
        users: the nodes that are to take the gated activation instead; every user where empty.
        role: a word for a name, where the plain one is taken: ``pre``, ``post``, ...
        conv: the convolution that the site follows, if it does.
    """

    host: nn.Module
    value: Node
    users: tuple[Node, ...] = ()
    role: str = ""
    conv: nn.Module | None = None


TO_ONE_PLACE = (AdaptiveAvgPool, AdaptiveMaxPool)


def convs_of(anatomy: Anatomy, test: Callable[[nn.Module], bool]) -> Iterator[tuple[nn.Module | None, list[nn.Module]]]:
    """The convolutions that ``test`` accepts, by block, in the order of execution (None: outside all blocks).

    Convolutions of projections on an identity branch and inside of attention are left out.
    """
    survey = anatomy.survey
    hidden = anatomy.attention | _projections(anatomy)
    groups: dict[nn.Module | None, list[nn.Module]] = {}
    for module in survey.probe.frames:
        if test(module) and not hidden_in(survey, module, hidden):
            groups.setdefault(anatomy.block_of(survey.paths[module]), []).append(module)
    yield from groups.items()


def chosen(convs: list[nn.Module], nth: int | None) -> list[nn.Module]:
    """All, or the n-th (from 1; -1 is the last) where there are so many."""
    if nth is None:
        return convs
    index = nth - 1 if nth > 0 else nth
    return [convs[index]] if -len(convs) <= index < len(convs) else []


def behind_conv(anatomy: Anatomy, conv: nn.Module) -> Site | Skip:
    """The site behind a convolution, its norm and activation, in the outermost host in which that is one place."""
    caller = anatomy.survey.callers.get(conv)
    if caller is None:
        return Skip(anatomy.survey.paths[conv], "no forward that could be traced calls this convolution")
    host, traced, node = caller
    host, value = _lifted(anatomy, host, traced, follow(node, host, follows))
    return Site(host, value, (), "conv", conv)


def _lifted(anatomy: Anatomy, host: nn.Module, traced: Trace, value: Node) -> tuple[nn.Module, Node]:
    while host not in anatomy.blocks and output_of(traced) is value:
        caller = anatomy.survey.callers.get(host)
        if caller is None or caller[0] is anatomy.survey.twin:
            break
        host, traced = caller[0], caller[1]
        value = follow(caller[2], host, follows)
    return host, value


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


def output_of(traced: Trace) -> Node | None:
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return output if isinstance(output, Node) else None


def output_site(anatomy: Anatomy, module: nn.Module) -> Site | Skip:
    """The site at a module's output: in its own graph, or behind it where it is a layer."""
    survey = anatomy.survey
    module = _innermost(anatomy, module)
    path = survey.paths[module]
    traced = survey.trace(module)
    if isinstance(traced, Trace):
        value = output_of(traced)
        if value is None or not carries(value):
            return Skip(path, "it returns more than one activation")
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
        if type(module).forward is not nn.Sequential.forward and inner not in holding:
            break
        module = inner
    return module


def wrapping(anatomy: Anatomy, block: nn.Module, stage: int | None) -> nn.Module:
    """The outermost module around a block whose output still has the block's resolution, short of the model itself."""
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
        stages = {number for other, number in anatomy.blocks.items() if below(survey.paths[other], path)}
        if stage is not None and stages != {stage}:
            break
        outermost = outer
    return outermost


def _projections(anatomy: Anatomy) -> set[nn.Module]:
    projections: set[nn.Module] = set()
    for host, merges in anatomy.merges.items():
        for merge in merges:
            if merge.residual and merge.inner is None and merge.identity is not None:
                way = anatomy.flows[host].between(merge.fork, merge.identity)
                projections.update(host.get_submodule(str(node.target)) for node in way if node.op == "call_module")
    return projections


def place_in(anatomy: Anatomy, host: nn.Module, node: Node) -> str:
    """How a node of a host's forward is called in messages."""
    return join(anatomy.survey.paths[host], node.name)


def place_of(anatomy: Anatomy, site: Site) -> str:
    """How a site is called in messages: the module, or the node of its forward."""
    name = str(site.value.target) if site.value.op == "call_module" else site.value.name
    return join(anatomy.survey.paths[site.host], name)
