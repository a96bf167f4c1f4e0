"""What generated forwards call to stay honest: a value that the trace had to fix is checked at run time."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from sesurgery.errors import FrozenValueError


def expect(value: Any, fixed: Any, place: str) -> None:
    """Raise ``FrozenValueError`` unless ``value == fixed``: the forward was generated for that value only."""
    if isinstance(value, torch.fx.Proxy):
        return  # somebody traces the whole model: what is known only at run time cannot be checked there
    if isinstance(value, torch.Tensor) and isinstance(fixed, (bool, int, float)) and value.numel() == 1:
        value = type(fixed)(value)  # torch.jit.trace hands sizes out as tensors
    if isinstance(value, torch.Tensor) or value != fixed:
        shown = f"a tensor of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise FrozenValueError(
            f"this forward was rewritten for the case {fixed!r}, and here it is {shown}",
            where=place,
            remedy="call sesurgery.revert(model), change the value, and apply the recipe again",
        )
