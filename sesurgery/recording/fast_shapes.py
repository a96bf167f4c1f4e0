"""Results of the commonest operations on ``meta`` tensors without asking torch, whose own kernels for them are Python.

On ``meta`` a batch norm or a ReLU computes nothing: its result is an empty tensor like its input. torch finds that out
through decompositions that take most of the time of a forward. Anything out of the ordinary is left to torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_UNARY = frozenset("relu silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu mish clone".split())
_BINARY = frozenset("add mul sub".split())


def quick_result(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the aten operation ``name`` gives, or None where torch has to say.

    Args:
        name: of the operation, with its ``_`` where it works in place.
        args, kwargs: its arguments; tensors on ``meta``.
    """
    first = args[0] if args else None
    if kwargs or not isinstance(first, torch.Tensor) or not first.is_meta or not first.is_floating_point():
        return None
    rule = _RULES.get(name)
    if rule is not None:
        return rule(first, args)
    plain = name.rstrip("_")
    if plain in _UNARY or (plain in _BINARY and _keeps_shape(first, args[1])):
        return first if name.endswith("_") else torch.empty_like(first)
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


def _batch_norm(x: torch.Tensor, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    nothing = torch.empty(0, dtype=x.dtype, device="meta")
    return torch.empty_like(x), nothing, nothing


def _batch_norm_or_its_training(x: torch.Tensor, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    training = args[5]
    return None if training else _batch_norm(x, args)


def _layer_norm(x: torch.Tensor, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    normalized = tuple(args[1])
    kept = x.ndim - len(normalized)
    if x.dtype != torch.float32 or not x.is_contiguous() or tuple(x.shape[kept:]) != normalized:
        return None
    statistics = (*x.shape[:kept], *(1 for _ in normalized))
    return torch.empty_like(x), torch.empty(statistics, device="meta"), torch.empty(statistics, device="meta")


def _addmm(bias: torch.Tensor, args: tuple[Any, ...]) -> torch.Tensor | None:
    one, two = args[1], args[2]
    if not (one.dtype == two.dtype == bias.dtype) or one.shape[1] != two.shape[0]:
        return None
    if bias.ndim != 1 or bias.shape[0] != two.shape[1]:
        return None
    return torch.empty((one.shape[0], two.shape[1]), dtype=bias.dtype, device="meta")


def _mean(x: torch.Tensor, args: tuple[Any, ...]) -> torch.Tensor | None:
    if len(args) < 2 or not args[1] or not x.is_contiguous():
        return None
    if any(not -x.ndim <= dim < x.ndim for dim in args[1]):
        return None
    gone = {dim % x.ndim for dim in args[1]}
    keeps = len(args) > 2 and args[2]
    shape = [1 if dim in gone else size for dim, size in enumerate(x.shape) if keeps or dim not in gone]
    return torch.empty(shape, dtype=x.dtype, device="meta")


_RULES: dict[str, Callable[[torch.Tensor, tuple[Any, ...]], Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm_or_its_training,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "addmm": _addmm,
    "mean": _mean,
}


def _keeps_shape(one: torch.Tensor, two: Any) -> bool:
    """Whether the second operand changes neither shape nor dtype nor layout of the first."""
    if not isinstance(two, torch.Tensor):
        return isinstance(two, (int, float)) and not isinstance(two, bool)
    if not two.is_meta or two.dtype != one.dtype:
        return False
    if two.shape == one.shape:
        return two.stride() == one.stride()
    return (
        one.is_contiguous()
        and two.is_contiguous()
        and two.ndim <= one.ndim
        and all(b in (1, a) for a, b in zip(reversed(one.shape), reversed(two.shape), strict=False))
    )
