"""The facts about a site that ``where:`` asks for."""

from __future__ import annotations

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.layer_kinds import is_depthwise, is_norm
from sesurgery.placement.sockets import empty_sockets
from sesurgery.recipe.rules import Rule
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.recording.channel_axes import channel_axis


def facts(
    anatomy: Anatomy, path: str, value: torch.Tensor | None, conv: nn.Module | None, rule: Rule | None = None
) -> SiteFacts:
    """What ``where:`` may ask about a site in the module at ``path``.

    Args:
        rule: if given, words of ``has:`` are looked for only where the rule asks for them.
        value: the activation there, for its channels and stage.
        conv: the convolution at the site, for kernel and stride.
    """
    survey = anatomy.survey
    block = anatomy.block_of(path)
    stage = anatomy.blocks[block] if block is not None else None
    if stage is None and value is not None:
        stage = anatomy.stage_of(value, path)
    members = [other for other, number in anatomy.blocks.items() if number == stage]
    axis = channel_axis(value)
    host = survey.module(path)
    holder = block if block is not None else host
    paths = (survey.paths[holder], path, *((survey.paths[conv],) if conv is not None else ()))
    return SiteFacts(
        paths=tuple(dict.fromkeys(paths)),
        types=tuple(dict.fromkeys((type(holder).__name__, type(host).__name__))),
        stage=stage,
        stages=len(anatomy.stages),
        block=members.index(block) if block is not None else None,
        blocks=len(members),
        channels=None if axis is None or value is None else value.shape[axis],
        kernel=_one_or_all(conv.kernel_size) if isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None,
        stride=_one_or_all(conv.stride) if isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None,
        has=traits(anatomy, holder) if rule is None or _asks_has(rule) else frozenset(),
    )


def _asks_has(rule: Rule) -> bool:
    where = rule.where
    return where.has is not None or (where.not_ is not None and where.not_.has is not None)


def _one_or_all(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


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
    if any(next(empty_sockets(anatomy.survey, part), None) for part in parts):
        site_traits.add("socket")
    return frozenset(site_traits)
