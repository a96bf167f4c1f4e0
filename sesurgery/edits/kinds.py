"""The kinds of edit, by the key of a rule: what each has to say, and what the driver does with it.

A kind is one small class: ``targets`` lists what a rule may change, ``edit`` says how one of them changes, or raises
``Unfit`` with the reason. The driver asks ``where:``, turns reasons into refusals and edits into actions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.placement.named_layers import Layer
from sesurgery.plans import Change, Skip
from sesurgery.recipe.rules import Rule
from sesurgery.words.registry import Registry


@dataclass(frozen=True)
class Target:
    """Something in a model that a rule may change.

    Attributes:
        path: how messages call it.
        subject: what the kind of edit works on: a site, a module, a gate, a run of blocks.
        holder: path of the module by which ``where:`` knows it.
        value: the activation there, if one is recorded.
        layer: the layer there, if it is about one.
        names: more paths by which ``where:`` knows it: of the layer that is to come, for one.
        node: what gives the activation, in the forward of the holder.
    """

    path: str
    subject: Any
    holder: str
    value: torch.Tensor | None = None
    layer: Layer | None = None
    names: tuple[str, ...] = ()
    node: Node | None = None


@dataclass(frozen=True)
class Proposal:
    """How one target changes.

    Attributes:
        path: of the layer that is new or changed; its host is the module around it.
        module: registry name of the layer, or the class name of what takes the place.
        params, macs: what it adds.
        notes: what a user should know.
    """

    path: str
    change: Change
    module: str
    params: int
    macs: int
    notes: tuple[str, ...] = ()


class EditKind(Protocol):
    """One kind of edit, named by the key of a rule."""

    action: str

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterable[Target | Skip]:
        """What ``at:`` names, and the places that come near but will not do."""
        ...

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """How a target that ``where:`` leaves changes. Never changes the survey's twin for good.

        Raises:
            Unfit: it does not; the text is the reason given to the user.
        """
        ...


KINDS: Registry[EditKind] = Registry("edit kind")


def edit_kind(kind: type[EditKind], origin: str | None = None) -> type[EditKind]:
    """Register a kind of edit under its ``action``; ``origin`` is the file or module of a user's own."""
    KINDS.add(kind.action, kind(), origin)
    return kind
