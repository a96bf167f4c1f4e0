"""Which families the default run leaves out: ``pytest -m slow`` runs those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from families import Family


def marked_slow(families: Iterable[Family], quick: Callable[[Family], bool]) -> list[Any]:
    """The families as parameters of a test; those that are not ``quick`` carry the marker ``slow``."""
    return [
        pytest.param(family, id=family.name, marks=() if quick(family) else pytest.mark.slow) for family in families
    ]
