"""What generated forwards call to stay honest: a value that the trace had to fix is checked at run time."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from .errors import FrozenValueError


def expect(value: Any, fixed: Any, place: str) -> None:
    """Raise ``FrozenValueError`` unless ``value == fixed``: the forward was generated for that value only."""
    if isinstance(value, torch.fx.Proxy):
        return  # somebody traces the whole model: what is known only at run time cannot be checked there
    if isinstance(value, torch.Tensor):  # torch.jit.trace hands sizes out as tensors
        value = type(fixed)(value)
    if value != fixed:
        raise FrozenValueError(
            f"this forward was rewritten for the case {fixed!r}, and here it is {value!r}",
            where=place,
            remedy="call sesurgery.revert(model), change the value, and apply the recipe again",
        )
