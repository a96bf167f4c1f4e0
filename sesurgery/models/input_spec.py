"""The arguments of one forward as plain data: shapes and dtypes, no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

MAX_DEPTH = 8
MAX_LEAVES = 1000
_MAX_SIZE = 1 << 30
_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
_SCALARS = (bool, int, float, str)


def describe(args: Any) -> dict[str, Any] | None:
    """``args`` as data for JSON; ``rebuild`` gives them back on ``meta``. None where they hold anything else.

    Tensors, tuples, lists, dicts with text for keys, plain values and None can be described.
    """
    if isinstance(args, torch.Tensor):
        return {"tensor": list(args.shape), "dtype": str(args.dtype).removeprefix("torch.")}
    if type(args) in (tuple, list):
        items = [describe(item) for item in args]
        return None if None in items else {type(args).__name__: items}
    if type(args) is dict:
        fields = {key: describe(item) for key, item in args.items()}
        return {"dict": fields} if all(isinstance(key, str) and item for key, item in fields.items()) else None
    return {"value": args} if args is None or type(args) in _SCALARS else None


def rebuild(data: Any, model: nn.Module | None = None) -> Any:
    """The arguments that ``describe`` was given, tensors empty and on ``meta``.

    Args:
        data: the description.
        model: the one that they are for, which may have been built in another precision since: tensors take its own.

    Raises:
        ValueError: ``data`` is no such description, or an unreasonable one.
    """
    dtypes = () if model is None else (each.dtype for each in model.parameters() if each.is_floating_point())
    return _Builder(next(iter(dtypes), None)).build(data, 0)


class _Builder:
    def __init__(self, dtype: torch.dtype | None) -> None:
        self.leaves = 0
        self.dtype = dtype

    def build(self, data: Any, depth: int) -> Any:
        self.leaves += 1
        if depth > MAX_DEPTH or self.leaves > MAX_LEAVES:
            raise ValueError("an input of too many parts")
        if not isinstance(data, Mapping):
            raise ValueError(f"a {type(data).__name__} describes no input")
        keys = set(data)
        if keys == {"tensor", "dtype"}:
            tensor = _tensor(data["tensor"], data["dtype"])
            alike = self.dtype in _PRECISIONS and tensor.dtype in _PRECISIONS
            return tensor.to(self.dtype) if alike else tensor
        if keys == {"value"} and (data["value"] is None or type(data["value"]) in _SCALARS):
            return data["value"]
        if len(keys) == 1:
            (kind,) = keys
            inner = data[kind]
            if kind in ("tuple", "list") and isinstance(inner, (list, tuple)):
                parts = [self.build(item, depth + 1) for item in inner]
                return tuple(parts) if kind == "tuple" else parts
            if kind == "dict" and isinstance(inner, Mapping):
                return {str(key): self.build(item, depth + 1) for key, item in inner.items()}
        raise ValueError("an input of a kind that is not known")


def _tensor(shape: Any, dtype: Any) -> torch.Tensor:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(kind, torch.dtype):
        raise ValueError("an input of a dtype that is not known")
    if not isinstance(shape, (list, tuple)) or len(shape) > 16:
        raise ValueError("an input without a shape")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError("an input without a shape")
        count *= max(size, 1)
    if count > _MAX_SIZE:
        raise ValueError("an input too large to be one")
    return torch.empty(tuple(shape), dtype=kind, device="meta")
