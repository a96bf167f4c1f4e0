"""Results of the commonest operations on ``meta`` tensors without asking torch, whose own kernels for them are Python.

On ``meta`` a batch norm or a ReLU computes nothing: its result is an empty tensor like its input. torch finds that out
through decompositions that take most of the time of a forward. Anything out of the ordinary is left to torch.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

_UNARY = frozenset("relu silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu mish clone".split())
_BINARY = frozenset("add mul sub".split())
_NORMS = frozenset(("native_batch_norm", "_native_batch_norm_legit_no_training"))


def quick_result(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the aten operation ``name`` gives, or None where torch has to say.

    Args:
        name: of the operation, with its ``_`` where it works in place.
        args, kwargs: its arguments; tensors on ``meta``.
    """
    first = args[0] if args else None
    if kwargs or not isinstance(first, torch.Tensor) or not first.is_meta or not first.is_floating_point():
        return None
    if name == "convolution":
        return _convolution(first, args)
    plain = name.rstrip("_")
    if plain in _UNARY or (plain in _BINARY and _alike(first, args[1])):
        return first if name.endswith("_") else torch.empty_like(first)
    if name in _NORMS and not (name == "native_batch_norm" and args[5]):
        nothing = torch.empty(0, dtype=first.dtype, device="meta")
        return torch.empty_like(first), nothing, nothing
    return None


def _convolution(x: torch.Tensor, args: tuple[Any, ...]) -> torch.Tensor | None:
    """A convolution's result: of the shape that torch found for the same sizes before."""
    weight = args[1]
    if not (x.is_contiguous() and weight.is_contiguous()):
        return None
    settings = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args[3:])
    shape = _convolved(tuple(x.shape), tuple(weight.shape), settings)
    return torch.empty(shape, dtype=x.dtype, device="meta")


@functools.lru_cache(maxsize=4096)
def _convolved(x: tuple[int, ...], weight: tuple[int, ...], settings: tuple[Any, ...]) -> torch.Size:
    like, kernel = torch.empty(x, device="meta"), torch.empty(weight, device="meta")
    plain = [list(item) if isinstance(item, tuple) else item for item in settings]
    return torch.ops.aten.convolution.default(like, kernel, None, *plain).shape


def _alike(one: torch.Tensor, two: Any) -> bool:
    """Whether the second operand changes neither shape nor dtype of the result."""
    if isinstance(two, torch.Tensor):
        return two.is_meta and two.shape == one.shape and two.dtype == one.dtype and two.stride() == one.stride()
    return isinstance(two, (int, float)) and not isinstance(two, bool)
