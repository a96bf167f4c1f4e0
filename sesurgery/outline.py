"""A module in a few lines, where its ``repr`` would fill a screen."""

from __future__ import annotations

from collections import Counter

from torch import nn

from .cost import parameters

_LINES = 8


def outline(module: nn.Module) -> str:
    """``repr`` where it is short; else the children, a line each, with what they hold."""
    whole = repr(module)
    if whole.count("\n") < _LINES:
        return whole
    extra = module.extra_repr()
    lines = [f"{type(module).__name__}(", *([f"  {extra}"] if extra else [])]
    lines += [f"  ({name}): {_brief(child)}" for name, child in module.named_children()]
    return "\n".join([*lines, f")  # {_size(module)}"])


def _brief(module: nn.Module) -> str:
    text = repr(module)
    if "\n" not in text:
        return text
    kinds = Counter(type(child).__name__ for child in module.children())
    inside = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{type(module).__name__}({inside})  # {_size(module)}"


def _size(module: nn.Module) -> str:
    return f"{parameters(module):,} parameters"
