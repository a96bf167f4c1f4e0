"""The short way to an edit kind of one's own: something else in the place of each layer that ``at:`` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import named_targets, only_place, swap
from sesurgery.edits.kinds import KINDS, Proposal, Target, edit_kind
from sesurgery.errors import Unfit
from sesurgery.plans import CustomLayer, Skip
from sesurgery.recipe.rules import Rule
from sesurgery.substitutes.registry import make

__all__ = ["LayerKind", "edit_kind"]


class LayerKind:
    """Base of edit kinds that exchange layers one by one.

    A subclass names its ``action`` and says in ``exchanged`` what takes a layer's place; ``sesurgery.extend.edit``
    makes one of a function. Planning, measuring, replay and revert then go as for any other edit.
    """

    action = ""

    def exchanged(self, options: Mapping[str, Any], old: nn.Module) -> nn.Module:
        """What takes the place of ``old``, which may be a part of it, unchanged.

        Args:
            options: what stands in the braces of the rule.

        Raises:
            Unfit: nothing does; its text is the reason given to the user.
        """
        raise NotImplementedError

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterable[Target | Skip]:
        """The layers that ``at:`` names."""
        return named_targets(anatomy, rule)

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """Another layer in the place of this one."""
        if not isinstance(target.subject, nn.Module):
            raise Unfit("it is written in a forward, and no layer")
        only_place(anatomy.survey, target.subject)
        return swap(anatomy, target.path, CustomLayer(self.action, rule.edit.model_dump()))


@make.register
def _custom(new: CustomLayer, old: nn.Module, *sources: nn.Module) -> nn.Module:
    kind = KINDS.get(new.action)
    if not isinstance(kind, LayerKind):
        raise Unfit(f'there is no edit kind "{new.action}" here that exchanges layers')
    return kind.exchanged(new.settings, old)
