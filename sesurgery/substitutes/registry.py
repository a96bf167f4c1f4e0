"""What takes a layer's place: ``make`` builds it from its description in a plan."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sesurgery import attention
from sesurgery.errors import StalePlanError, Unfit
from sesurgery.plans import AttentionLayer, Identity, Substitute


@functools.singledispatch
def make(new: Any, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
    """The module that takes the place of ``old``, which stays as it is. Register one maker for each substitute.

    Args:
        new: what the plan says of it.
        old: what is there now; None in an empty socket.
        *sources: the modules at the substitute's ``sources``.

    Raises:
        Unfit: there can be none.
    """
    raise TypeError(f"nothing makes a {type(new).__name__}")


@make.register
def _identity(new: Identity, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
    return nn.Identity()


@make.register
def _attention(new: AttentionLayer, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
    return attention.build(new.module, attention.Port(new.shape, new.axis), new.options)


def on_meta(new: Substitute, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
    """``make`` without weights and in eval mode, for measuring."""
    with torch.device("meta"), _Uninitialised(), torch.random.fork_rng(devices=[]):
        return make(new, old, *sources).to("meta").eval()


class _Uninitialised(TorchFunctionMode):
    """While it is active, ``torch.nn.init`` leaves weights alone: on ``meta`` there is nothing to fill."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **kwargs)
        return kwargs["tensor"] if "tensor" in kwargs else args[0]


@dataclass(frozen=True)
class Build:
    """``make`` for an action: ``path`` is where a plan that does not fit is reported."""

    new: Substitute
    path: str

    def __call__(self, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
        """The new module. Raises ``StalePlanError``."""
        weightless = torch.get_default_device().type == "meta"
        try:
            with _Uninitialised() if weightless else contextlib.nullcontext():
                return make(self.new, old, *sources)
        except Unfit as reason:
            raise StalePlanError(str(reason), where=self.path, remedy="plan again on this model") from None
