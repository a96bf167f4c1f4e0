"""A private, weightless copy of a model: the body on which everything is looked at and tried first.

The copy lies on the ``meta`` device, so it costs no memory and no arithmetic, and whatever planning does to it
(modes, classes, hooks) never reaches the model it was taken from.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import ModelError
from .trees import map_tensors

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def twin_of(model: nn.Module) -> nn.Module:
    """Copy ``model`` onto ``meta``: same classes, attributes, sharing and modes; no weights, no hooks.

    Raises:
        ModelError: an attribute of the model refuses to be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = _weightless(tensor)
    for module in model.modules():
        for name in _HOOKS:
            hooks = module.__dict__.get(name)
            if hooks is not None:
                memo[id(hooks)] = type(hooks)()
    try:
        with _TensorsToMeta():
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            where=type(model).__name__,
            remedy="keep what cannot be copied (locks, files, generators) outside the module",
        ) from error


def to_meta(value: Any) -> Any:
    """A nested value with every tensor in it moved to ``meta`` (shape, dtype and strides kept)."""
    return map_tensors(lambda tensor: tensor.to("meta"), value)


def _weightless(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        raise ModelError("a lazy module has no shape yet", remedy="run the model once before operating on it")
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class _TensorsToMeta(TorchFunctionMode):
    """While active, deep-copying a tensor that no module has registered gives a ``meta`` tensor too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().to("meta")
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
