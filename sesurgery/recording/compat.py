"""The names of torch that are private and needed all the same, in one place: when torch renames one, this file changes.

``Module._modules``, ``_parameters`` and ``_buffers`` are not here: every pickled module holds them, so they cannot go.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import _C, Tensor, nn
from torch._C import DisableTorchFunction as Unnoted
from torch._C._functorch import get_unwrapped
from torch._C._functorch import is_functorch_wrapped_tensor as is_wrapped
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd as AdaptiveAvgPool
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd as AdaptiveMaxPool
from torch.nn.modules.pooling import _AvgPoolNd as AvgPool
from torch.nn.modules.pooling import _LPPoolNd as LPPool
from torch.nn.modules.pooling import _MaxPoolNd as MaxPool
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "BACKWARD_HOOKS",
    "FORWARD_HOOKS",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "BatchNorm",
    "Dropout",
    "InstanceNorm",
    "LPPool",
    "MaxPool",
    "NormBase",
    "TorchDispatchMode",
    "Unnoted",
    "flop_registry",
    "is_wrapped",
    "modules_in",
    "packet",
    "paths_in",
    "pytree",
    "same_convolution",
    "saved_buffers",
    "set_border",
    "storage_of",
    "undispatched",
    "unwrapped",
    "viewed",
    "weights_in",
]


def _flop_registry() -> Any:
    """Torch's formulas. Without triton it warns at the import that kernels of triton do not count; none is met here."""
    logger = logging.getLogger("torch.utils.flop_counter")
    logger.addFilter(_not_of_triton)
    try:
        return import_module("torch.utils.flop_counter").flop_registry
    finally:
        logger.removeFilter(_not_of_triton)


def _not_of_triton(record: logging.LogRecord) -> bool:
    return "triton not found" not in record.getMessage()


flop_registry = _flop_registry()

# While it is active, no mode is told of operations.
undispatched = _C._DisableTorchDispatch

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d

FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


def modules_in(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` gives, in its order, without a generator for each level of nesting."""
    seen: dict[nn.Module, None] = {}
    pending = [model]
    while pending:
        module = pending.pop()
        if module not in seen:
            seen[module] = None
            pending.extend([child for child in reversed(module._modules.values()) if child is not None])
    return list(seen)


def paths_in(model: nn.Module) -> dict[nn.Module, str]:
    """What ``model.named_modules()`` gives: each module with the first of its paths."""
    paths: dict[nn.Module, str] = {}
    pending = [("", model)]
    while pending:
        path, module = pending.pop()
        if module not in paths:
            paths[module] = path
            prefix = f"{path}." if path else ""
            children = reversed(module._modules.items())
            pending.extend([(prefix + name, child) for name, child in children if child is not None])
    return paths


def weights_in(model: nn.Module) -> list[Tensor]:
    """The parameters of a model, then its buffers, each once."""
    tables = [(module._parameters, module._buffers) for module in modules_in(model)]
    tensors = (tensor for kind in zip(*tables, strict=True) for table in kind for tensor in table.values())
    return list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())


def packet(function: Any) -> Any:
    """The operation of which an aten overload is one form: ``aten.add`` of ``aten.add.Tensor``."""
    return function._overloadpacket


def viewed(tensor: Tensor) -> Tensor | None:
    """The tensor of which another one is a view; None where it is a view of nothing."""
    return tensor._base


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor of all samples behind one that vmap or torch.func hands out; any other tensor itself."""
    while is_wrapped(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def set_border(conv: Conv, sides: Sequence[int]) -> None:
    """Tell a convolution how wide the border is that its padding mode makes: two sides an axis, the last axis first."""
    conv._reversed_padding_repeated_twice = list(sides)


def same_convolution(kind: type[Conv], other: type[Conv]) -> bool:
    """Whether two classes convolve by the same code."""
    return kind.forward is other.forward and kind._conv_forward is other._conv_forward


def storage_of(tensor: Tensor) -> int:
    """The memory that a tensor shares with its views, as a number; also on ``meta``, where no address tells it."""
    return tensor.untyped_storage()._cdata


def saved_buffers(module: nn.Module) -> list[Tensor | None]:
    """The buffers of a module's own that its state_dict holds."""
    left_out = module._non_persistent_buffers_set
    return [buffer for name, buffer in module._buffers.items() if name not in left_out]
