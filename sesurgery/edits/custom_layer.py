"""The short way to an edit kind of one's own: something else in the place of each layer that ``at:`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import child_edit, frames_of, guarded, only_place, wanted_facts
from sesurgery.edits.kinds import edit_kind
from sesurgery.edits.to_actions import realise
from sesurgery.operating.actions import Realised
from sesurgery.placement.named_layers import layers_of, too_few
from sesurgery.plans import Edit, Skip
from sesurgery.recipe.rules import Rule
from sesurgery.substitutes.registry import MAKERS, Make

__all__ = ["LayerKind", "edit_kind"]


class LayerKind:
    """Base of edit kinds that exchange layers one by one.

    A subclass names its ``action`` and says in ``exchanged`` what takes a layer's place; ``rules.action`` lets recipes
    say it, ``edits.edit_kind`` registers it. Planning, measuring, replay and revert then go as for any other edit.
    """

    action = ""

    def __init__(self) -> None:
        MAKERS[self.action] = self._made

    def exchanged(self, options: Mapping[str, Any], old: nn.Module) -> nn.Module:
        """What takes the place of ``old``, which may be a part of it, unchanged.

        Args:
            options: what stands in the braces of the rule.

        Raises:
            Unfit: nothing does; its text is the reason given to the user.
        """
        raise NotImplementedError

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """One edit for each layer that ``at:`` names and ``where:`` leaves."""
        yield from too_few(anatomy, rule)
        for layer in layers_of(anatomy, rule.at):
            path = anatomy.survey.paths[layer]
            yield from guarded(path, rule, lambda found=layer: [self._edit(anatomy, rule, found)])

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """Children to exchange."""
        return realise(anatomy, edits)

    def _made(self, options: Mapping[str, Any], old: nn.Module, *sources: nn.Module) -> nn.Module:
        return self.exchanged(options["settings"], old)

    def _edit(self, anatomy: Anatomy, rule: Rule, layer: nn.Module) -> Edit:
        survey = anatomy.survey
        path = survey.paths[layer]
        only_place(survey, layer)
        value = next((frame.output for frame in frames_of(survey, layer)), None)
        conv = rule.at.role == "conv"
        tensor = value if isinstance(value, torch.Tensor) else None
        found = wanted_facts(anatomy, rule, path.rpartition(".")[0] if conv else path, tensor, layer if conv else None)
        return child_edit(anatomy, rule, found, path, Make(self.action, {"settings": rule.edit.model_dump()}))
