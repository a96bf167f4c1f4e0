"""The few things an operation does to a model, as data; ``operate`` is the only one who does them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sesurgery.operating.operated_class import Code
from sesurgery.plans import Diff


@dataclass(frozen=True)
class SetChild:
    """Give a host a child: a new one, or one in the place of what is there.

    Attributes:
        host: module path of the host.
        name: attribute of the host.
        make: builds the child on the default device; it is given the host's current value there (None or a module),
            which it must not change.
        node: whether the child is an inserted node (attention), to be found as one by later operations.
        sources: paths of other modules that ``make`` is given behind the current value, as they are by then.
    """

    host: str
    name: str
    make: Callable[..., nn.Module]
    node: bool = False
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetForward:
    """Give a host a new forward: a generated subclass of its class."""

    host: str
    code: Code


Action = SetChild | SetForward


@dataclass(frozen=True)
class Realised:
    """Edits made concrete on one survey: what to do, and how the code reads before and after."""

    actions: tuple[Action, ...]
    diffs: tuple[Diff, ...] = ()
