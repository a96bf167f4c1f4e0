"""What the registry knows about one node, and what its options may be. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sesurgery.errors import either, nearest
from sesurgery.words.text import shown

ACTIVATIONS = (
    "relu",
    "silu",
    "swish",
    "relu6",
    "leaky_relu",
    "elu",
    "prelu",
    "celu",
    "selu",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "mish",
    "sigmoid",
    "tanh",
    "hard_sigmoid",
    "hardsigmoid",
    "hard_swish",
    "hardswish",
    "hard_mish",
    "identity",
)
INHERIT = "inherit"
GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu")
SQUEEZES = ("avg", "max", "avg+max", "none")
INITS = ("paper", "near", "identity")
SOURCES = ("site", "block input")

MAX_CHANNELS = 65536


class Rule(Protocol):
    """Judges one value."""

    def problem(self, value: object) -> str | None:
        """What is wrong with ``value``, or None."""
        ...

    def schema(self) -> dict[str, Any]:
        """The rule as JSON schema."""
        ...


@dataclass(frozen=True)
class Number:
    """A number between ``low`` and ``high``, both included."""

    low: float
    high: float
    whole: bool = True
    odd: bool = False

    def problem(self, value: object) -> str | None:
        kind = ("an odd whole number" if self.odd else "a whole number") if self.whole else "a number"
        wanted = f"{_short(value)} is not {kind} from {self.low:g} to {self.high:g}"
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return wanted
        fits = self.low <= value <= self.high and not (self.odd and value % 2 == 0)
        return None if fits else wanted

    def schema(self) -> dict[str, Any]:
        return {"type": "integer" if self.whole else "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[object, ...]

    def problem(self, value: object) -> str | None:
        if not isinstance(value, bool) and any(type(value) is type(known) and value == known for known in self.values):
            return None
        names = [str(known) for known in self.values]
        near = nearest(value, names) if isinstance(value, str) else ()
        hint = f"did you mean {either(near)}?" if near else f"expected {either(names)}"
        return f"{_short(value)} is not known; {hint}"

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def problem(self, value: object) -> str | None:
        return None if isinstance(value, bool) else f"{_short(value)} is neither true nor false"

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


RULES: dict[str, Rule] = {
    "reduction": Number(1 / 64, MAX_CHANNELS, whole=False),
    "rd_channels": Number(1, MAX_CHANNELS),
    "rd_divisor": Number(1, 4096),
    "reduce_from": Choice(SOURCES),
    "act": Choice((*ACTIVATIONS, INHERIT)),
    "act_slope": Number(-10, 10, whole=False),
    "gate": Choice(GATES),
    "squeeze": Choice(SQUEEZES),
    "bias": Flag(),
    "init": Choice(INITS),
    "kernel_size": Number(1, 63, odd=True),
    "groups": Number(1, MAX_CHANNELS),
    "radix": Number(1, 16),
    "extent": Choice((0, 2, 4, 8, 16, 32)),
    "extra_params": Flag(),
    "split_input": Flag(),
    "keep_3x3": Flag(),
    "block_size": Number(2, 64),
    "halo_size": Number(0, 32),
    "num_heads": Number(1, 256),
    "dim_head": Number(1, 1024),
    "drop_rate": Number(0, 0.99, whole=False),
    "rd_least": Number(1, MAX_CHANNELS),
    "shared": Flag(),
    "softmax": Choice(("paths", "all")),
    "e_lambda": Number(1e-8, 1, whole=False),
}


def _short(value: object) -> str:
    return f'"{shown(value)}"' if isinstance(value, str) else shown(value)


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
        bound: what a user should know of a node that is bound to the size ``{size}`` of its map.
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
    bound: str = ""

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
