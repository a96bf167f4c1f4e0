"""Two runs side by side: outputs as trees, numbers bit for bit (NaN equals NaN, 0 equals -0)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.verification.result import Difference
from sesurgery.words.text import shown

_ABSENT = object()


def parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a container holds, each with how one writes the way to it; None for what is no container."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", getattr(value, name)) for name in getattr(value, "_fields", ())]
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if isinstance(value, (Tensor, nn.Module, type)) or callable(value):
        return None
    return [(f".{name}", item) for name, item in vars(value).items()] if hasattr(value, "__dict__") else None


def tensors_of(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors anywhere in an output."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield value
    elif id(value) not in seen:
        seen.add(id(value))
        for _, item in parts(value) or ():
            yield from tensors_of(item, seen)


class Comparison:
    """Collects the differences of one case."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.differences: list[Difference] = []
        self._seen: set[int] = set()

    def add(self, place: str, path: str, kind: str, text: str, size: float | None = None) -> None:
        """Note one difference."""
        self.differences.append(Difference(self.case, place, path, kind, text, size))

    def named(self, place: str, wanted: Mapping[str, Any], got: Mapping[str, Any], *, new: bool = True) -> None:
        """Compare values by name; with ``new=False`` only those that the original has."""
        for name, value in wanted.items():
            other = got.get(name, _ABSENT)
            if other is _ABSENT or (other is None and value is not None):
                self.add(place, name, "missing", "only the original has it")
            elif value is None and isinstance(other, Tensor):
                self.add(place, name, "new", "only the operated model has it")
            else:
                self.trees(place, name, value, other)
        for name in got.keys() - wanted.keys() if new else ():
            self.add(place, name, "new", "only the operated model has it")

    def trees(self, place: str, path: str, wanted: Any, got: Any) -> None:
        """Compare two nested values: types, keys, lengths, and what they hold."""
        if not _same_type(wanted, got):
            self.add(place, path, "type", f"{type(got).__name__} instead of {type(wanted).__name__}")
            return
        if isinstance(wanted, Tensor):
            self._tensors(place, path, wanted, got)
            return
        inner = parts(wanted)
        if inner is None:
            self._leaves(place, path, wanted, got)
            return
        if id(wanted) in self._seen:
            return
        self._seen.add(id(wanted))
        others = parts(got) or []
        if [name for name, _ in inner] != [name for name, _ in others]:
            keyed = not isinstance(wanted, (list, tuple))
            text = f"{_keys(others)} instead of {_keys(inner)}" if keyed else f"{len(others)} instead of {len(inner)}"
            self.add(place, path, "keys" if keyed else "length", text)
            return
        for (name, one), (_, two) in zip(inner, others, strict=True):
            self.trees(place, path + name, one, two)

    def _tensors(self, place: str, path: str, wanted: Tensor, got: Tensor) -> None:
        for kind in ("dtype", "shape", "device", "layout", "requires_grad"):
            one, two = getattr(wanted, kind), getattr(got, kind)
            if one != two:
                self.add(place, path, kind, f"{_plain(two)} instead of {_plain(one)}")
                if kind != "requires_grad":
                    return
        distance = values_apart(wanted.detach(), got.detach())
        if distance is not None:
            self.add(place, path, "values", *distance)

    def _leaves(self, place: str, path: str, wanted: Any, got: Any) -> None:
        if type(wanted).__eq__ is object.__eq__ or callable(wanted) or isinstance(wanted, nn.Module):
            return  # of such an object one knows the type, which is the same
        if hasattr(wanted, "__array_interface__"):
            wanted, got = torch.as_tensor(wanted), torch.as_tensor(got)
            self._tensors(place, path, wanted, got)
        elif not (wanted == got or (wanted != wanted and got != got)):
            number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
            size = abs(float(wanted) - float(got)) if number else None
            self.add(place, path, "values", f"{shown(got)} instead of {shown(wanted)}", size)


def values_apart(wanted: Tensor, got: Tensor) -> tuple[str, float] | None:
    """How two tensors of one shape and dtype differ, in words and as the largest difference; None where not."""
    one, two = _dense(wanted), _dense(got)
    if torch.equal(one, two):
        return None
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, two = one.cpu().to(wide), two.cpu().to(wide)
    apart = (one != two) & ~((one != one) & (two != two))
    if not apart.any():
        return None
    gaps = (two - one).abs()[apart].nan_to_num(math.inf)
    size, largest = float(gaps.max()), float(one.abs().nan_to_num(0.0).max())
    return f"{int(apart.sum()):,} of {one.numel():,}, by {size:.3g} at most; the largest is {largest:.3g}", size


def _dense(tensor: Tensor) -> Tensor:
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _same_type(one: Any, two: Any) -> bool:
    """Whether two values are of one class, or of classes of one name: a file that is run twice makes two."""
    a, b = type(one), type(two)
    return a is b or (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def _keys(items: list[tuple[str, Any]]) -> str:
    return shown(", ".join(name for name, _ in items) or "nothing")


def _plain(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
