"""Activations that an author wrote (Swish, Mish, a lambda in a module): known by what they do to numbers."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from sesurgery.recording.module_state import kept, undisturbed
from sesurgery.tracing.same_structure import structure

_KNOWN: weakref.WeakKeyDictionary[type[nn.Module], dict[Any, bool]] = weakref.WeakKeyDictionary()
_SHAPE = (2, 3, 4, 4)
_STEP = 37  # has no factor in common with the number of elements, so that steps of it visit each once


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module without weights bends each number by itself: an activation, whatever its class.

    It is tried out: numbers in another order must come out in that order, and not on a straight line.
    """
    if type(module).__module__.startswith("torch.nn.") or any(True for _ in module.state_dict()):
        return False
    form = structure(module)
    known = _KNOWN.setdefault(type(module), {})
    if form is None or form not in known:
        known[form] = _bends(module)
    return known[form]


def _bends(module: nn.Module) -> bool:
    parts = list(module.modules())
    numbers = torch.linspace(-4, 4, torch.Size(_SHAPE).numel(), device="cpu")
    order = torch.arange(len(numbers), device="cpu") * _STEP % len(numbers)
    try:
        with torch.device("cpu"), torch.no_grad(), undisturbed(parts), kept(parts):
            plain, mixed = (module(given.reshape(_SHAPE).clone()) for given in (numbers, numbers[order]))
    except Exception:
        return False  # it takes something else than one activation
    if not all(isinstance(value, torch.Tensor) and value.shape == _SHAPE for value in (plain, mixed)):
        return False
    straight = plain.flatten().diff(n=2).abs().max() < 1e-4
    return torch.allclose(plain.flatten()[order], mixed.flatten()) and not bool(straight)
