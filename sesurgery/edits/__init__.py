"""The kinds of edit that a rule may ask for. Importing this registers them."""

from __future__ import annotations

from sesurgery.edits import custom_layer, insert, remove, replace, rewire

__all__ = ["custom_layer", "insert", "remove", "replace", "rewire"]
