"""The facts about a site that ``where:`` asks for."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.layer_kinds import is_conv, is_depthwise, is_norm
from sesurgery.anatomy.merges import Merge
from sesurgery.placement.named_layers import Layer
from sesurgery.placement.sockets import empty_sockets
from sesurgery.recipe.rules import Rule
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.nested import tensors_in
from sesurgery.tracing.survey import Survey, hidden_in
from sesurgery.words.paths import outwards


def facts(
    anatomy: Anatomy,
    path: str,
    value: torch.Tensor | None = None,
    layer: Layer | None = None,
    rule: Rule | None = None,
    names: Iterable[str] = (),
    node: Node | None = None,
) -> SiteFacts:
    """What ``where:`` may ask about a site in the module at ``path``.

    Args:
        value: the activation there, for its channels and stage.
        layer: the layer that the site is about.
        rule: if given, what takes long is looked for only where the rule asks for it.
        names: more paths by which the site may be named.
        node: what gives the activation, in the forward of that module.
    """
    survey = anatomy.survey
    block = anatomy.block_of(path)
    region = _region(anatomy, path, block, layer, node)
    stage = anatomy.stage_of(value, path, region)
    members = anatomy.members(stage, region)
    axis = channel_axis(value)
    holder = block if block is not None else survey.module(path)
    own = layer.path if layer is not None else path
    classes = _classes(survey, outwards(own)[:-1])
    outside = classes if layer is None or layer.module is None else _classes(survey, outwards(own)[1:-1])
    of_module = rule is not None and rule.at.layer == "module"
    if of_module:
        holder, classes = survey.module(own), ()
    asked = rule is None or _asks(rule, "kernel", "stride")
    kernel, stride = _geometry(anatomy, block, layer) if asked else (None, None)
    return SiteFacts(
        paths=tuple(dict.fromkeys((survey.paths[holder], path, own, *names))),
        types=(type(holder).__name__, *classes),
        around=outside,
        stage=stage,
        stages=len(anatomy.stages_in(region)),
        region=region,
        block=members.index(block) if block is not None else None,
        blocks=len(members),
        plain=not anatomy.blocks,
        channels=None if axis is None or value is None else value.shape[axis],
        kernel=kernel,
        stride=stride,
        has=traits(anatomy, holder) if rule is None or _asks(rule, "has") else frozenset(),
    )


def _classes(survey: Survey, paths: Iterable[str]) -> tuple[str, ...]:
    """The classes of the modules at these paths; an operation in the forward of its host has a path, too."""
    modules = (module for path in paths if (module := survey.by_path.get(path)) is not None)
    return tuple(dict.fromkeys(type(module).__name__ for module in modules))


def _region(anatomy: Anatomy, path: str, block: nn.Module | None, layer: Layer | None, node: Node | None) -> str:
    """The region of a site: its block's, that of its activation, that of its layer, or its module's."""
    if block is not None:
        return anatomy.regions.blocks[block]
    if node is None and layer is not None and layer.module is not None:
        return anatomy.region_of(layer.module)
    return anatomy.region_of(anatomy.survey.module(path), node)


def _asks(rule: Rule, *keys: str) -> bool:
    conditions = (rule.where, rule.where.not_)
    return any(
        condition is not None and getattr(condition, key) is not None for key in keys for condition in conditions
    )


def _geometry(
    anatomy: Anatomy, block: nn.Module | None, layer: Layer | None
) -> tuple[int | tuple[int, ...] | None, int | tuple[int, ...] | None]:
    """Kernel and stride of a convolution; else the largest kernel of the block, and by how much it shrinks the map."""
    if layer is not None and layer.kernel is not None:
        return _one_or_all(layer.kernel), _one_or_all(layer.stride or ())
    if block is None:
        return None, None
    hidden = anatomy.attention
    convs = [part for part in block.modules() if is_conv(part) and not hidden_in(anatomy.survey, part, hidden)]
    kernels = [conv.kernel_size for conv in convs if isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return _one_or_all(max(kernels, default=None, key=max)), _one_or_all(_shrinks(anatomy.survey, block))


def _shrinks(survey: Survey, block: nn.Module) -> tuple[int, ...] | None:
    """By how much a block's output is smaller than its first input, per axis of the map."""
    frame = survey.frame(block)
    for given, result in [] if frame is None else zip(tensors_in(frame.args), tensors_in(frame.output), strict=False):
        axis = channel_axis(result)
        if axis is None or given.ndim != result.ndim or result.ndim < 3:
            return None
        space = [index for index in range(1, result.ndim) if index != axis]
        return tuple(round(given.shape[index] / result.shape[index]) for index in space)
    return None


def _one_or_all(sizes: tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    return sizes[0] if sizes and len(set(sizes)) == 1 else sizes or None


def traits(anatomy: Anatomy, block: nn.Module) -> frozenset[str]:
    """The words of ``has:`` that hold for a block."""
    memo = anatomy.survey.memo
    key = ("traits", block)
    if key not in memo:
        memo[key] = _traits(anatomy, block)
    return memo[key]


def _traits(anatomy: Anatomy, block: nn.Module) -> frozenset[str]:
    site_traits: set[str] = set()
    parts = list(block.modules())
    if any(part in anatomy.attention for part in parts):
        site_traits.add("attention")
    if any(is_depthwise(part) for part in parts):
        site_traits.add("depthwise conv")
    if any(is_norm(part) for part in parts):
        site_traits.add("norm")
    kinds = {merge.kind for part in parts for merge in anatomy.merges.get(part, ())}
    words = {"identity": "identity", "projected": "projection", "concat": "concat"}
    site_traits.update(words[kind] for kind in kinds if kind in words)
    if kinds & {"identity", "projected"}:
        site_traits.add("residual add")
    if any(_are_parallel(anatomy, merge) for part in parts for merge in anatomy.merges.get(part, ())):
        site_traits.add("parallel branches")
    if any(empty_sockets(anatomy.survey, part) for part in parts):
        site_traits.add("socket")
    return frozenset(site_traits)


def _are_parallel(anatomy: Anatomy, merge: Merge) -> bool:
    """Whether three working branches or more of one fork are concatenated, none leading to another: Inception's."""
    ends, flow = set(merge.branches), anatomy.flows[merge.host]
    if merge.op != "cat" or len(ends) < 3 or merge.fork is None:
        return False
    working = [end for end in ends if any(_computes(node) for node in flow.between(merge.fork, end))]
    return len(working) >= 3 and not any(flow.leads(one, [two]) for one in ends for two in ends if one is not two)


def _computes(node: Node) -> bool:
    return node.op.startswith("call_") and node.target is not operator.getitem
