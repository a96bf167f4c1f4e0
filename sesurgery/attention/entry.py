"""What the registry knows about one node. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Entry:
    """One node of the registry.

    Attributes:
        name: what recipes and ``--module`` call it.
        summary: one line for people.
        source: paper or library.
        options: names of the options it takes, ``init`` and ``reduce_from`` not counted.
        layouts: layouts it has a meaning in (keys of ``LAYOUTS``).
        factory: ``build(port, **options) -> nn.Module``, or where to find it: ``"package.module:function"``.
        defaults: values of the options that were not given.
        choices: options whose values are fewer than elsewhere.
        rounding: rule of ``widths.squeezed`` for its squeezed width.
        starts_as_identity: its factory takes ``init`` and needs no ``IdentityStart`` around it.
        child: name the node should have as a child of its host.
    """

    name: str
    summary: str
    source: str = ""
    options: frozenset[str] = frozenset()
    layouts: frozenset[str] = frozenset({"nchw"})
    factory: str | Callable[..., Any] = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    rounding: str = "timm"
    starts_as_identity: bool = False
    child: str = ""

    @property
    def accepted(self) -> frozenset[str]:
        """Every option a recipe may give: its own, ``init``, and ``reduce_from`` where it has a squeezed width."""
        planned = {"init", "reduce_from"} if "rd_channels" in self.options else {"init"}
        return self.options | planned

    def load(self) -> Callable[..., Any]:
        """The factory itself."""
        if not isinstance(self.factory, str):
            return self.factory
        module, _, function = self.factory.partition(":")
        return getattr(importlib.import_module(module), function)
