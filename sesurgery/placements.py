"""Where a phrase of ``at:`` points to in a model: sites.

A placement is a function from an anatomy to sites, found through the registry:

    @placement("before residual add")
    def before_residual_add(anatomy, at): yield Site(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from .anatomy import Anatomy, Merge, resolution
from .axes import channel_axis
from .errors import UnknownNameError
from .flow import carries, is_scaling, sources, weight_layers
from .layers import activates, drops, follows, is_conv, is_depthwise, is_pointwise, is_spatial, pools
from .phrases import At, register_phrase
from .plan import Skip
from .trace import Trace


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


_TO_ONE_PLACE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
Found = Iterable["Site | Skip"]
Placement = Callable[[Anatomy, At], Found]
PLACEMENTS: dict[str, Placement] = {}


def placement(phrase: str, *, ordinal: bool = False, summary: str = "") -> Callable[[Placement], Placement]:
    """Register a placement under its phrase. ``ordinal`` says whether "first", "last", "2" may go with it."""

    def register(function: Placement) -> Placement:
        register_phrase(phrase, ordinal=ordinal, summary=summary)
        PLACEMENTS[phrase] = function
        return function

    return register


def _known(phrase: str) -> Callable[[Placement], Placement]:
    def register(function: Placement) -> Placement:
        PLACEMENTS[phrase] = function
        return function

    return register


def sites(anatomy: Anatomy, at: At) -> Iterator[Site | Skip]:
    """Every site that a phrase names, and the places that come near but will not do, with the reason."""
    place = PLACEMENTS.get(at.name)
    if place is None:
        raise UnknownNameError("placement", at.name, PLACEMENTS, where="at")
    yield from place(anatomy, at)


def _merges(anatomy: Anatomy, op: str) -> Iterator[tuple[nn.Module, Merge]]:
    attention = anatomy.attention
    for host, merges in anatomy.merges.items():
        if _within(anatomy, host, attention):
            continue
        for merge in merges:
            if merge.op == op:
                yield host, merge


def _residual(anatomy: Anatomy) -> Iterator[Merge | Skip]:
    for host, merge in _merges(anatomy, "add"):
        if merge.residual:
            yield merge
        elif not merge.partial:
            why = "a sum of like branches (none is the identity)"
            yield Skip(_place(anatomy, host, merge.node), why)


@_known("before residual add")
def before_residual_add(anatomy: Anatomy, at: At) -> Found:
    """The end of each residual branch: before its dropouts, LayerScale and scalar factors, which stay in place."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
            continue
        for end in merge.branches:
            value = _branch_end(anatomy, merge, end)
            flow = anatomy.flows[merge.host]
            inside = {*flow.between(merge.fork, end), merge.node}
            yield Site(merge.host, value, tuple(user for user in value.users if user in inside), "branch")


@_known("after residual add")
def after_residual_add(anatomy: Anatomy, at: At) -> Found:
    """Behind the sum, and behind the activation that follows it."""
    continued = {merge.inner for merges in anatomy.merges.values() for merge in merges}
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
        elif merge.node not in continued:
            value = _follow(merge.node, merge.host, activates)
            yield Site(merge.host, value, (), "post")


@_known("start of residual branch")
def start_of_residual_branch(anatomy: Anatomy, at: At) -> Found:
    """Where the residual branch leaves the identity: only the branch sees the gated activation."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
            continue
        if merge.fork is None:
            continue
        flow = anatomy.flows[merge.host]
        identity = set(flow.between(merge.fork, merge.identity)) if merge.identity is not None else set()
        inside = {node for end in merge.branches for node in flow.between(merge.fork, end)} - identity
        users = tuple(user for user in merge.fork.users if user in inside)
        if users:
            yield Site(merge.host, merge.fork, users, "pre")
        else:
            yield Skip(_place(anatomy, merge.host, merge.node), "the residual branch does not begin at the fork")


@_known("on identity branch")
def on_identity_branch(anatomy: Anatomy, at: At) -> Found:
    """On the identity branch, behind its projection if it has one; the residual branch does not see it."""
    for merge in _residual(anatomy):
        if isinstance(merge, Skip):
            yield merge
        elif merge.inner is None and merge.identity is not None:
            yield Site(merge.host, merge.identity, (merge.node,), "identity")


@_known("before concat")
def before_concat(anatomy: Anatomy, at: At) -> Found:
    """The end of the branch that does most of the work; of every working branch, where there are more than two."""
    for host, merge in _merges(anatomy, "cat"):
        flow = anatomy.flows[host]
        work = {
            part: sum(weight_layers(node, host.get_submodule) for node in flow.between(merge.fork, part))
            for part in merge.branches
            if carries(part)
        }
        heavy = [part for part, layers in work.items() if layers > 0]
        if len(work) == 2 and len(set(work.values())) == 2:
            heavy = [max(work, key=work.__getitem__)]
        if not heavy:
            yield Skip(_place(anatomy, host, merge.node), "no branch before this concat has weights of its own")
        for part in heavy:
            yield Site(host, part, (merge.node,), "branch")


@_known("after concat")
def after_concat(anatomy: Anatomy, at: At) -> Found:
    """Behind each concat of branches."""
    for host, merge in _merges(anatomy, "cat"):
        yield Site(host, merge.node, (), "concat")


@_known("before pooling")
def before_pooling(anatomy: Anatomy, at: At) -> Found:
    """Before each pooling with a window that lies in no block: the end of a block of a plain network."""
    if anatomy.blocks:
        kinds = sorted({type(block).__name__ for block in anatomy.blocks})
        yield Skip("", f"this network is built of {', '.join(kinds[:3])} blocks, not of plain runs between poolings")
        return
    for host, traced in anatomy.survey.chains_and_hosts():
        for node in traced.graph.nodes:
            if pools(node, host.get_submodule) and sources(node):
                yield Site(host, sources(node)[0], (node,), "pool")


@_known("after spatial conv")
def after_spatial_conv(anatomy: Anatomy, at: At) -> Found:
    """Behind each convolution with a kernel above 1, its norm and its activation."""
    yield from _after_convs(anatomy, at, is_spatial)


@_known("after depthwise conv")
def after_depthwise_conv(anatomy: Anatomy, at: At) -> Found:
    """Behind each depthwise convolution, its norm and its activation."""
    yield from _after_convs(anatomy, at, is_depthwise)


@_known("after pointwise conv")
def after_pointwise_conv(anatomy: Anatomy, at: At) -> Found:
    """Behind each 1x1 convolution, its norm and its activation."""
    yield from _after_convs(anatomy, at, is_pointwise)


@_known("after conv")
def after_conv(anatomy: Anatomy, at: At) -> Found:
    """Behind each convolution, or the n-th of each block, its norm and its activation."""
    yield from _after_convs(anatomy, at, is_conv)


@_known("end of block")
def end_of_block(anatomy: Anatomy, at: At) -> Found:
    """What each block returns."""
    for block in anatomy.blocks:
        yield _output_site(anatomy, block)


@_known("end of stage")
def end_of_stage(anatomy: Anatomy, at: At) -> Found:
    """What the last block of each stage returns, or the module that wraps the stage."""
    for stage in anatomy.stages:
        if stage.blocks:
            yield _output_site(anatomy, _wrapping(anatomy, anatomy.survey.module(stage.blocks[-1]), stage.index))
    if not anatomy.blocks:
        yield from before_pooling(anatomy, at)


@_known("end of backbone")
def end_of_backbone(anatomy: Anatomy, at: At) -> Found:
    """The last feature map of the deepest stage."""
    last = list(anatomy.blocks)[-1:]
    if last:
        yield _output_site(anatomy, _wrapping(anatomy, last[0], None))
        return
    maps = [
        module
        for module, frame in anatomy.survey.probe.frames.items()
        if isinstance(frame.output, torch.Tensor)
        and (resolution(frame.output) or 0) > 1
        and channel_axis(frame.output) is not None
        and not list(module.children())
        and not isinstance(module, _TO_ONE_PLACE)
    ]
    for module in maps[-1:]:
        yield _output_site(anatomy, module)


def convs_of(anatomy: Anatomy, test: Callable[[nn.Module], bool]) -> Iterator[tuple[nn.Module | None, list[nn.Module]]]:
    """The convolutions that ``test`` accepts, by block, in the order of execution (None: outside all blocks).

    Convolutions of projections on an identity branch and inside of attention are left out.
    """
    survey = anatomy.survey
    hidden = anatomy.attention | _projections(anatomy)
    groups: dict[nn.Module | None, list[nn.Module]] = {}
    for module in survey.probe.frames:
        if test(module) and not _within(anatomy, module, hidden):
            groups.setdefault(anatomy.block_of(survey.paths[module]), []).append(module)
    yield from groups.items()


def chosen(convs: list[nn.Module], nth: int | None) -> list[nn.Module]:
    """All, or the n-th (from 1; -1 is the last) where there are so many."""
    if nth is None:
        return convs
    index = nth - 1 if nth > 0 else nth
    return [convs[index]] if -len(convs) <= index < len(convs) else []


def _after_convs(anatomy: Anatomy, at: At, test: Callable[[nn.Module], bool]) -> Found:
    for block, convs in convs_of(anatomy, test):
        if block is None and anatomy.blocks:
            continue
        picked = chosen(convs, at.nth)
        if not picked:
            path = anatomy.survey.paths[block] if block is not None else ""
            yield Skip(path, f"it has {len(convs)} such convolutions, so none is number {at.nth}")
        for conv in picked:
            yield _behind(anatomy, conv)


def _behind(anatomy: Anatomy, conv: nn.Module) -> Site | Skip:
    """The site behind a convolution, its norm and activation, in the outermost host in which that is one place."""
    caller = anatomy.survey.callers.get(conv)
    if caller is None:
        return Skip(anatomy.survey.paths[conv], "no forward that could be traced calls this convolution")
    host, traced, node = caller
    host, value = _lifted(anatomy, host, traced, _follow(node, host, follows))
    return Site(host, value, (), "conv", conv)


def _lifted(anatomy: Anatomy, host: nn.Module, traced: Trace, value: Node) -> tuple[nn.Module, Node]:
    while host not in anatomy.blocks and _output(traced) is value:
        caller = anatomy.survey.callers.get(host)
        if caller is None or caller[0] is anatomy.survey.twin:
            break
        host, traced = caller[0], caller[1]
        value = _follow(caller[2], host, follows)
    return host, value


def _follow(node: Node, host: nn.Module, test: Callable[[Node, Callable[[str], nn.Module]], bool]) -> Node:
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


def _branch_end(anatomy: Anatomy, merge: Merge, end: Node) -> Node:
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


def _output(traced: Trace) -> Node | None:
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return output if isinstance(output, Node) else None


def _output_site(anatomy: Anatomy, module: nn.Module) -> Site | Skip:
    """The site at a module's output: in its own graph, or behind it where it is a layer."""
    survey = anatomy.survey
    module = _innermost(anatomy, module)
    path = survey.paths[module]
    traced = survey.trace(module)
    if isinstance(traced, Trace):
        value = _output(traced)
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
    holding = {survey.module(path.rsplit(".", end)[0]) for path in map(survey.paths.get, anatomy.blocks) if path for end in range(path.count(".") + 1)}
    while module not in anatomy.blocks:
        traced = survey.trace(module)
        last = _output(traced) if isinstance(traced, Trace) else None
        if last is None or last.op != "call_module" or len(last.users) != 1:
            break
        inner = module.get_submodule(str(last.target))
        if type(module).forward is not nn.Sequential.forward and inner not in holding:
            break
        module = inner
    return module


def _wrapping(anatomy: Anatomy, block: nn.Module, stage: int | None) -> nn.Module:
    """The outermost module around a block whose output still has the block's resolution, short of the model itself."""
    survey = anatomy.survey
    found = block
    frame = survey.frame(block)
    size = resolution(frame.output) if frame is not None and isinstance(frame.output, torch.Tensor) else None
    parts = survey.paths[block].split(".")
    for end in range(len(parts) - 1, 0, -1):
        outer = survey.module(".".join(parts[:end]))
        frame = survey.frame(outer)
        if frame is None:
            continue
        output = frame.output
        if not isinstance(output, torch.Tensor) or size is None or resolution(output) != size:
            break
        prefix = survey.paths[outer] + "."
        stages = {number for other, number in anatomy.blocks.items() if survey.paths[other].startswith(prefix)}
        if stage is not None and stages != {stage}:
            break
        found = outer
    return found


def _projections(anatomy: Anatomy) -> set[nn.Module]:
    found: set[nn.Module] = set()
    for host, merges in anatomy.merges.items():
        for merge in merges:
            if merge.residual and merge.inner is None and merge.identity is not None:
                way = anatomy.flows[host].between(merge.fork, merge.identity)
                found.update(host.get_submodule(str(node.target)) for node in way if node.op == "call_module")
    return found


def _within(anatomy: Anatomy, module: nn.Module, others: Set[nn.Module]) -> bool:
    paths = anatomy.survey.paths
    path = paths[module]
    return any(path == paths[other] or path.startswith(paths[other] + ".") for other in others)


def _place(anatomy: Anatomy, host: nn.Module, node: Node) -> str:
    path = anatomy.survey.paths[host]
    return f"{path}.{node.name}" if path else node.name


__all__ = ["PLACEMENTS", "Site", "chosen", "convs_of", "placement", "sites"]
