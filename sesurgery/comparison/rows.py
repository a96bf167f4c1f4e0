"""What a comparison says, as data: a row a candidate."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sesurgery.comparison.budget import MEASURES
from sesurgery.plans import Cost

COSTS = ("params", "macs", "activation_bytes")


@dataclass(frozen=True)
class Evidence:
    """What training said about a candidate.

    Attributes:
        values: the result of each seed.
        mean: of the values.
        gain: the mean of the differences to the unmodified model of the same seed, better being positive; None for the
            unmodified model itself.
        interval: the 95 % bootstrap interval of the gain over paired seeds; None for fewer than two seeds.
        verdict: in words.
        others: the means of further results, by name.
    """

    values: Mapping[int, float]
    mean: float
    gain: float | None = None
    interval: tuple[float, float] | None = None
    verdict: str = ""
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        name: what it is called; the unmodified model is ``unmodified``.
        recipe, stages, module, options: what was asked for.
        also: other candidates that come to the same edits.
        edits: how many layers it changes.
        cost: of one forward pass of one sample, after the operation; None where the recipe was refused.
        reason: why it was refused.
        pareto: whether no other row is at least as good in every aim and better in one.
        over: by how much it is over budget, by measure, as a share of the unmodified model's.
        fingerprint: digest of the edits; equal candidates have the same.
        evidence: what training said, where it was trained.
        latency: seconds of a forward pass, where it was measured.
        other: the reference of another model, which is compared as it is.
        recipe_data: the whole candidate as an ordinary recipe; ``sesurgery.apply`` takes it.
    """

    name: str
    recipe: str = ""
    stages: str = ""
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    edits: int = 0
    cost: Cost | None = None
    reason: str = ""
    pareto: bool = False
    over: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    evidence: Evidence | None = None
    latency: float | None = None
    other: str = ""
    recipe_data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def within(self) -> bool:
        """Whether it can be done and is within every budget."""
        return self.cost is not None and not self.over

    @property
    def plain(self) -> bool:
        """Whether nothing was done to it: the unmodified model, and others that it is compared with."""
        return not self.recipe_data

    def measure(self, name: str) -> float:
        """``params``, ``macs``, ``flops``, ``activation_bytes``, ``weight_bytes`` or ``latency``."""
        value = self.latency if name == "latency" else getattr(self.cost, name, None)
        return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Comparison(Sequence[Row]):
    """Candidates beside each other, in the order that was asked for; ``control`` is the unmodified model.

    Attributes:
        model: what was compared on.
        budget: the budget, as it was asked for.
        aim: the name of the result that training is judged by.
    """

    model: str
    control: Row
    rows: tuple[Row, ...]
    budget: str = ""
    aim: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def best(self) -> Row | None:
        """The candidate within the budget with the largest gain; None where nothing was trained."""
        trained = [
            row
            for row in self.rows
            if row.within and not row.other and row.evidence is not None and row.evidence.gain is not None
        ]
        return max(
            trained, key=lambda row: row.evidence.gain if row.evidence and row.evidence.gain else 0.0, default=None
        )

    def recipes(self) -> dict[str, Mapping[str, Any]]:
        """The recipes of what is within the budget, by fingerprint."""
        return {row.fingerprint: row.recipe_data for row in self.rows if row.within and not row.other}

    def records(self) -> list[dict[str, Any]]:
        """A flat mapping for each row, the unmodified model first; the same keys in all."""
        return [record(row, self.control) for row in (self.control, *self.rows)]

    def to_csv(self) -> str:
        """The records as CSV text."""
        out = io.StringIO()
        records = self.records()
        writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue()

    def to_pandas(self) -> Any:
        """The records as a ``pandas.DataFrame``. Raises ``ImportError`` where pandas is not installed."""
        import pandas

        return pandas.DataFrame.from_records(self.records())

    def _repr_html_(self) -> str:
        from sesurgery.comparison.table import html

        return html(self)

    def __str__(self) -> str:
        from sesurgery.comparison.table import text

        return text(self)


def nearest(comparison: Comparison) -> str:
    """Which candidate comes nearest to a budget that none meets."""
    possible = [row for row in comparison if row.over]
    if not possible:
        return "no candidate can be done"
    best = min(possible, key=lambda row: max(row.over.values()))
    over = ", ".join(f"{name} by {100 * value:.2g} %" for name, value in best.over.items())
    return f"no candidate is within {comparison.budget}; the nearest is {best.name}, which is above it in {over}"


def record(row: Row, control: Row) -> dict[str, Any]:
    """A row as a flat mapping: costs in all and beside the unmodified model's."""
    flat: dict[str, Any] = {
        "name": row.name,
        "recipe": row.recipe,
        "stages": row.stages,
        "module": row.module or "",
        "options": " ".join(f"{key}={value}" for key, value in row.options.items()),
        "edits": row.edits,
    }
    for name in MEASURES:
        here, there = row.measure(name), control.measure(name)
        flat[name] = None if here != here else (here if name == "latency" else int(here))
        flat[f"{name}_more"] = None if here != here or not there else here / there - 1
    evidence = row.evidence
    return {
        **flat,
        "pareto": row.pareto,
        "over": " ".join(f"{key}+{100 * value:.2f}%" for key, value in row.over.items()),
        "reason": row.reason,
        "also": "; ".join(row.also),
        "fingerprint": row.fingerprint,
        "seeds": len(evidence.values) if evidence else 0,
        "value": evidence.mean if evidence else None,
        "gain": evidence.gain if evidence else None,
        "interval": list(evidence.interval) if evidence and evidence.interval else None,
        "verdict": evidence.verdict if evidence else "",
    }


def as_data(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain data for JSON."""
    return {
        "model": comparison.model,
        "budget": comparison.budget,
        "aim": comparison.aim,
        "rows": [
            {**item, "options": dict(row.options), "evidence": asdict(row.evidence) if row.evidence else None}
            for item, row in zip(comparison.records(), (comparison.control, *comparison.rows), strict=True)
        ],
    }
