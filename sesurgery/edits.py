"""The kinds of edit and what they share: a registry, and the facts that ``where:`` asks about.

A kind is one small class with two methods: ``propose`` looks at an anatomy and a rule and says what to do, as data;
``realise`` turns such data back into actions on a model that looks the same. Planning, preview, apply and replay all
go this one way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from .actions import Realised
from .anatomy import Anatomy
from .axes import channel_axis
from .digest import fingerprint
from .errors import StalePlanError
from .layers import is_depthwise, is_norm
from .phrases import At
from .records import Edit, Skip
from .rules import Rule
from .selection import SiteFacts
from .sites import Site
from .sockets import empty_sockets
from .survey import Survey


class EditKind(Protocol):
    """One kind of edit, named by the key of a rule."""

    action: str

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """What the rule would do here. Never changes the survey's twin for good."""
        ...

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """The actions for edits of this kind. Raises ``StalePlanError`` on a model they were not made for."""
        ...


KINDS: dict[str, EditKind] = {}


def edit_kind(kind: type[EditKind]) -> type[EditKind]:
    """Register a kind of edit under its ``action``."""
    KINDS[kind.action] = kind()
    return kind


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
    found: set[str] = set()
    parts = list(block.modules())
    if any(part in anatomy.attention for part in parts):
        found.add("attention")
    if any(is_depthwise(part) for part in parts):
        found.add("depthwise conv")
    if any(is_norm(part) for part in parts):
        found.add("norm")
    kinds = {merge.kind for part in parts for merge in anatomy.merges.get(part, ())}
    words = {"identity": "identity", "projected": "projection", "concat": "concat"}
    found.update(words[kind] for kind in kinds if kind in words)
    if kinds & {"identity", "projected"}:
        found.add("residual add")
    if any(next(empty_sockets(anatomy.survey, part), None) for part in parts):
        found.add("socket")
    return frozenset(found)


def refused(rule: Rule, found: SiteFacts) -> str | None:
    """Why ``where:`` leaves a site out, or None."""
    return rule.where.mismatch(found)


def place_of(anatomy: Anatomy, site: Site) -> str:
    """How a site is called in messages: the module, or the node of its forward."""
    path = anatomy.survey.paths[site.host]
    name = str(site.value.target) if site.value.op == "call_module" else site.value.name
    return f"{path}.{name}" if path else name


def verify(survey: Survey, edit: Edit) -> nn.Module:
    """The host of an edit in this model. Raises ``StalePlanError`` unless it is what the plan was made for."""
    try:
        host = survey.module(edit.host)
    except AttributeError:
        raise StalePlanError(
            f"the plan wants to operate on {edit.host}, and this model has no such module",
            where=edit.path,
            remedy="plan again on this model",
        ) from None
    if fingerprint(survey, host) != edit.fingerprint:
        raise StalePlanError(
            "the forward of its host is not the one that the plan was made for",
            where=edit.path,
            remedy="plan again on this model",
        )
    return host


def phrase(edit: Edit) -> At:
    """The phrase of an edit, parsed."""
    from .phrases import parse_at

    return parse_at(edit.at)
