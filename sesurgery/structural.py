"""The edits ``replace``, ``remove`` and ``rewire``, and those of one's own: importing this registers them."""

from __future__ import annotations

from . import layer_kind, remove, replace, rewire

__all__ = ["layer_kind", "remove", "replace", "rewire"]
