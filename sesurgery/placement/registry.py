"""What phrases of ``at:`` mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from sesurgery.recipe.phrases import At, register_phrase
from sesurgery.words.registry import Registry
from sesurgery.words.user_code import origin_of

if TYPE_CHECKING:
    from sesurgery.anatomy.anatomy import Anatomy
    from sesurgery.placement.sites import Site
    from sesurgery.plans import Skip

Found: TypeAlias = "Iterable[Site | Skip]"
Placement: TypeAlias = "Callable[[Anatomy, At], Found]"
PLACEMENTS: Registry[Placement] = Registry("placement")


def known(phrase: str) -> Callable[[Placement], Placement]:
    """Register what a phrase means that ``recipe.phrases`` lists already."""

    def register(function: Placement) -> Placement:
        PLACEMENTS.add(phrase, function)
        return function

    return register


def placement(phrase: str, *, ordinal: bool = False, summary: str = "") -> Callable[[Placement], Placement]:
    """Register a placement of your own, so that ``at:`` of an ``insert`` may name it.

    Decorates a function of the anatomy and the phrase (:class:`~sesurgery.recipe.phrases.At`) that yields a ``Site``
    for each place, or a ``Skip`` with the reason where a place comes near and will not do.

    Args:
        phrase: its words, in small letters: ``"on every concat input"``.
        ordinal: whether "first", "last" or a number may go with it; it is then ``at.nth``.
        summary: one line for people.

    Raises:
        InputError: the phrase is taken.
    """

    def register(function: Placement) -> Placement:
        origin = origin_of(function)
        register_phrase(phrase, ordinal=ordinal, summary=summary, origin=origin)
        PLACEMENTS.add(phrase, function, origin)
        return function

    return register
