"""Tensors in nested lists, tuples and dicts: what goes into a module and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sesurgery.recording.compat import pytree

# Nearly all values; torch's walk, which knows every container that somebody registers, takes ten times as long.
_PLAIN = frozenset((type(None), bool, int, float, str))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a nested value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value) is tuple or type(value) is list:
        return [tensor for item in value if type(item) not in _PLAIN for tensor in tensors_in(item)]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def shapes_in(value: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors in a nested value, in order."""
    return [tuple(tensor.shape) for tensor in tensors_in(value)]


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """A nested value with ``function`` applied to every tensor in it."""
    if isinstance(value, torch.Tensor):
        return function(value)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([item if type(item) in _PLAIN else map_tensors(function, item) for item in value])
    if kind is dict:
        return {key: map_tensors(function, item) for key, item in value.items()}
    return pytree.tree_map_only(torch.Tensor, function, value)


def nesting(value: Any) -> tuple[list[Any], str]:
    """The leaves of a nested value and a description of how they are nested."""
    leaves, spec = pytree.tree_flatten(value)
    return leaves, str(spec)


def batch_of(args: tuple[Any, ...]) -> int:
    """How many samples the arguments of a model hold: in a list of them, or along the first axis."""
    first = next(iter(args), None)
    if isinstance(first, list):
        return len(first)
    tensor = next((tensor for tensor in tensors_in(args) if tensor.ndim > 1), None)
    return tensor.shape[0] if tensor is not None else 1


def sample_shapes(args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    """The shapes of one sample, without the axis of samples: one for each tensor that a model takes."""
    samples = batch_of(args)
    if isinstance(args[0], list):
        return tuple(shapes_in(args[0][:1]))
    shapes = shapes_in(args)
    return tuple(shape[1:] if len(shape) > 1 and shape[0] == samples else shape for shape in shapes)


def one_sample(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a model with the first of their samples only, in memory of its own."""
    samples = batch_of(args)

    def first(value: Any) -> Any:
        return value[:1].clone() if value.ndim and value.shape[0] == samples else value

    if isinstance(args[0], list):
        return tuple(arg[:1] if isinstance(arg, list) and len(arg) == samples else arg for arg in args)
    return map_tensors(first, args)
