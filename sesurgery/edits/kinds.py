"""The kinds of edit and what they share: a registry, and the facts that ``where:`` asks about.

A kind is one small class with two methods: ``propose`` looks at an anatomy and a rule and says what to do, as data;
``realise`` turns such data back into actions on a model that looks the same. Planning, preview, apply and replay all
go this one way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.errors import StalePlanError
from sesurgery.operating.actions import Realised
from sesurgery.plans import Edit, Skip
from sesurgery.recipe.phrases import At
from sesurgery.recipe.rules import Rule
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey


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


def refused(rule: Rule, found: SiteFacts) -> str | None:
    """Why ``where:`` leaves a site out, or None."""
    return rule.where.mismatch(found)


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
    from sesurgery.recipe.phrases import parse_at

    return parse_at(edit.at)
