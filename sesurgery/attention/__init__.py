"""Nodes that can be inserted, by name. Importing this package imports no torch; building a node does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sesurgery.attention.options import Entry
from sesurgery.attention.port import LAYOUTS, Port
from sesurgery.attention.registry import attention, canonical, check_options, child_name, entry, names
from sesurgery.attention.widths import make_divisible, reduced_channels

if TYPE_CHECKING:
    from sesurgery.attention.activations import activation_name
    from sesurgery.attention.construct import IdentityStart, build, refusal
    from sesurgery.attention.squeeze_excite import SqueezeExcite

_NEED_TORCH = {
    "activation_name": "activations",
    "build": "construct",
    "refusal": "construct",
    "IdentityStart": "construct",
    "SqueezeExcite": "squeeze_excite",
}

__all__ = [
    "LAYOUTS",
    "Entry",
    "IdentityStart",
    "Port",
    "SqueezeExcite",
    "activation_name",
    "attention",
    "build",
    "canonical",
    "check_options",
    "child_name",
    "entry",
    "make_divisible",
    "names",
    "reduced_channels",
    "refusal",
]


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        return getattr(importlib.import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
