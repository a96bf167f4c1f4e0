"""A private, weightless copy of a model: the body on which everything is looked at and tried first.

The copy lies on the ``meta`` device, so it costs no memory and no arithmetic, and whatever planning does to it
(modes, classes, hooks) never reaches the model it was taken from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from sesurgery.errors import ModelError
from sesurgery.recording.compat import BACKWARD_HOOKS, FORWARD_HOOKS, modules_in, paths_in, weights_in
from sesurgery.recording.nested import map_tensors
from sesurgery.tracing.deep_copy import deep_copy, is_plain, own_functions
from sesurgery.words.text import reason


def twin_of(model: nn.Module, hooks: bool = False) -> nn.Module:
    """Copy ``model`` onto ``meta``: same classes, attributes, sharing and modes; no weights, no hooks.

    Args:
        hooks: the copy has hooks of its own around forwards, for a model that needs them to run.

    Raises:
        ModelError: an attribute of the model refuses to be copied, or a part of it is scripted.
    """
    _refuse_scripts(model)
    try:
        try:
            return _twin(model, hooks, is_plain)
        except Exception:  # a way of copying of its own, which wants numbers
            return _twin(model, hooks, lambda kind: not issubclass(kind, GraphModule))
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {reason(error)}",
            where=type(model).__name__,
            remedy="keep what cannot be copied (locks, files, generators) outside the module",
        ) from error


def _twin(model: nn.Module, hooks: bool, plain: Callable[[type[nn.Module]], bool]) -> nn.Module:
    memo: dict[int, Any] = {}
    for tensor in weights_in(model):
        memo[id(tensor)] = _weightless(tensor)
    modules = modules_in(model)
    for module in modules:
        for name in BACKWARD_HOOKS if hooks else (*FORWARD_HOOKS, *BACKWARD_HOOKS):
            table = module.__dict__.get(name)
            if table is not None:
                memo[id(table)] = type(table)()
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:  # a pruned weight
                memo[id(value)] = _weightless(value)
    with _TensorsToMeta():
        return own_functions(model, deep_copy(model, memo, plain), memo)


def hooks_on(model: nn.Module) -> list[str]:
    """The forward hooks of a model: where each is, and what it is called."""
    return [
        f"{path or 'the model'} ({getattr(hook, '__qualname__', None) or type(hook).__name__})"
        for path, module in model.named_modules()
        for name in FORWARD_HOOKS[:2]
        for hook in module.__dict__[name].values()
    ]


def _refuse_scripts(model: nn.Module) -> None:
    for module, path in paths_in(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path or 'it'} is a ScriptModule, which has no Python forward and takes no hooks",
                where=type(model).__name__,
                remedy="operate first, then torch.jit.trace the result",
            )


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
