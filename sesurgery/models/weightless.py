"""Models without weights: built on the meta device, or as near to it as their constructors allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sesurgery.errors import InputError


class _WeightsOnMeta(TorchFunctionMode):
    """Memory for weights is taken on meta, while values that a constructor computes with stay real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Call ``build`` so that as little as possible is materialised, and move what is left to meta.

    Some constructors read values (``.item()``, ``.tolist()``), which meta tensors do not have. They are run again with
    only their weights on meta, and at last on the CPU, whose error is the true one.
    """
    try:
        with torch.device("meta"):
            return to_meta(build())
    except InputError:
        raise
    except Exception:
        try:
            with _WeightsOnMeta():
                return to_meta(build())
        except Exception:
            with torch.device("cpu"):
                return to_meta(build())


def to_meta(model: nn.Module) -> nn.Module:
    """Exchange parameters and buffers for meta tensors, in place; shared ones stay shared (``.to`` would part them)."""
    seen: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None or tensor.is_meta:
                    continue
                if id(tensor) not in seen:
                    moved = tensor.detach().to("meta")
                    is_weight = isinstance(tensor, nn.Parameter)
                    seen[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
                store[name] = seen[id(tensor)]  # type: ignore[assignment]
    return model
