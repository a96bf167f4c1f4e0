"""Budgets: ``params=+5%,macs=+1%``: how much a candidate may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sesurgery.errors import InputError, UnknownNameError

MEASURES = ("params", "macs", "flops", "activation_bytes", "weight_bytes", "latency")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_LIMIT = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(\.\d+)?)(?P<unit>[kMGT]?|%)")
_FORMS = 'write "+5%" or "+200k" more than the model, or "26M" in all'


@dataclass(frozen=True)
class Limit:
    """The most that one measure may be.

    Attributes:
        text: how the user wrote it.
        amount: a share (0.05) where ``share``, else an amount.
        more: whether it is what may be added, and not the total.
    """

    measure: str
    text: str
    amount: float
    share: bool
    more: bool

    def excess(self, before: float, after: float) -> float:
        """How far ``after`` is above the limit, as a share of ``before``; 0 or less where it is within."""
        limit = before + self.room(before)
        return (after - limit) / before if before else after - limit

    def room(self, before: float) -> float:
        """How much may be added to ``before``."""
        if self.share:
            return before * self.amount
        return self.amount if self.more else self.amount - before


def budget(given: str | Mapping[str, Any] | None) -> tuple[Limit, ...]:
    """Limits from ``"params=+5%,macs=+1%"`` or ``{"params": "+5%"}``.

    Raises:
        UnknownNameError: a measure that there is none.
        InputError: a limit that cannot be read.
    """
    if not given:
        return ()
    pairs = given.items() if isinstance(given, Mapping) else (part.partition("=")[::2] for part in given.split(","))
    return tuple(_limit(str(name).strip(), str(text).strip()) for name, text in pairs)


def _limit(name: str, text: str) -> Limit:
    if name not in MEASURES:
        raise UnknownNameError("measure", name, MEASURES, where="budget", remedy=f"one of {', '.join(MEASURES)}")
    match = _LIMIT.fullmatch(text)
    if match is None or (match["unit"] == "%" and not match["sign"]):
        raise InputError(f'"{text}" is no limit', where=f"budget {name}", remedy=_FORMS)
    sign = -1.0 if match["sign"] == "-" else 1.0
    share = match["unit"] == "%"
    amount = sign * float(match["number"]) * (0.01 if share else _UNITS[match["unit"]])
    return Limit(name, text, amount, share, bool(match["sign"]))


def written(limits: tuple[Limit, ...]) -> str:
    """A budget as its user would write it."""
    return ",".join(f"{limit.measure}={limit.text}" for limit in limits)
