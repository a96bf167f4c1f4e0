"""Registries that are as they were before a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sesurgery.attention.registry import REGISTRY
from sesurgery.edits.kinds import KINDS
from sesurgery.placement.registry import PLACEMENTS
from sesurgery.recipe.phrases import PHRASES
from sesurgery.recipe.rules import ACTIONS
from sesurgery.words.registry import Registry

ALL: tuple[Registry[Any], ...] = (REGISTRY, PHRASES, PLACEMENTS, ACTIONS, KINDS)


@contextmanager
def restored() -> Iterator[None]:
    """What is registered inside goes again."""
    before = [dict(registry._entries) for registry in ALL]
    try:
        yield
    finally:
        for registry, entries in zip(ALL, before, strict=True):
            registry._entries = entries
