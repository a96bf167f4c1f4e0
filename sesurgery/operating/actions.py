"""The few things an operation does to a model, as data; ``perform`` does them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.graph_modules import LayerCall


@dataclass(frozen=True)
class SetChild:
    """Give a host a child: a new one, or one in the place of what is there.

    Attributes:
        host: module path of the host.
        name: attribute of the host.
        make: builds the child on the default device; it is given the host's current value there (None or a module),
            which it must not change.
        attention: whether the child is an attention layer, so that later operations know it as one.
        sources: paths of other modules that ``make`` is given behind the current value, as they are by then.
        dtype: of the activation that the child takes; None where it is to follow the weights around it.
    """

    host: str
    name: str
    make: Callable[..., nn.Module]
    attention: bool = False
    sources: tuple[str, ...] = ()
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class SetMethods:
    """Give a host edited methods: a subclass of its class that overrides them, those of earlier operations included."""

    host: str
    methods: tuple[EditedMethod, ...]


@dataclass(frozen=True)
class EditGraph:
    """Put calls of layers into the graphs of a host that is a ``torch.fx.GraphModule``."""

    host: str
    calls: tuple[LayerCall, ...]


Action = SetChild | SetMethods | EditGraph
