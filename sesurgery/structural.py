"""The edits ``replace``, ``remove`` and ``rewire``: importing this registers them."""

from __future__ import annotations

from . import remove, replace, rewire

__all__ = ["remove", "replace", "rewire"]
