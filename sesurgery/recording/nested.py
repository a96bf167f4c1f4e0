"""Tensors in nested lists, tuples and dicts: what goes into a module and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sesurgery.recording.compat import pytree


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a nested value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def shapes_in(value: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors in a nested value, in order."""
    return [tuple(tensor.shape) for tensor in tensors_in(value)]


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """A nested value with ``function`` applied to every tensor in it."""
    return pytree.tree_map_only(torch.Tensor, function, value)


def nesting(value: Any) -> tuple[list[Any], str]:
    """The leaves of a nested value and a description of how they are nested."""
    leaves, spec = pytree.tree_flatten(value)
    return leaves, str(spec)
