"""What takes a layer's place, by the name of the change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sesurgery.errors import StalePlanError, Unfit

# Makes the new module from the edit's options, the old module and the modules at the edit's other sources.
Maker = Callable[..., nn.Module]


MAKERS: dict[str, Maker] = {}


def maker(change: str) -> Callable[[Maker], Maker]:
    """Register what makes the module of a change, ``make(options, old, *sources)``; it must not change ``old``."""

    def register(make: Maker) -> Maker:
        MAKERS[change] = make
        return make

    return register


@maker("identity")
def _identity(options: Mapping[str, Any], old: nn.Module, *sources: nn.Module) -> nn.Module:
    return nn.Identity()


@dataclass(frozen=True)
class Make:
    """Builds the module of an edit, for an action."""

    change: str
    options: Mapping[str, Any]
    path: str = ""

    def __call__(self, old: nn.Module | None, *sources: nn.Module) -> nn.Module:
        """The new module, made from the old one."""
        try:
            return MAKERS[self.change](self.options, old, *sources)
        except Unfit as reason:
            raise StalePlanError(str(reason), where=self.path, remedy="plan again on this model") from None

    def on_meta(self, old: nn.Module, *sources: nn.Module) -> nn.Module:
        """The new module without weights, for measuring. Raises ``Unfit`` where there can be none."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return MAKERS[self.change](self.options, old, *sources).to("meta").eval()
