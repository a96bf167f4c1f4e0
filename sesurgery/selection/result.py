"""What a search found, as data and as a recipe with its evidence. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sesurgery.comparison.files import commented
from sesurgery.comparison.rows import Comparison
from sesurgery.plans import Edit


@dataclass(frozen=True)
class Value:
    """What a site is worth, better being positive.

    Attributes:
        without: what is lost when its layer alone is switched off.
        alone: what is won when its layer alone is on.
        noise: the standard error of their mean, over repeated validations.
    """

    without: float
    alone: float
    noise: float

    @property
    def mean(self) -> float:
        return (self.without + self.alone) / 2


def in_order(values: dict[str, Value]) -> dict[str, Value]:
    """The sites, best first."""
    return dict(sorted(values.items(), key=lambda item: -item[1].mean))


@dataclass(frozen=True)
class Selection:
    """What a search found.

    Attributes:
        recipe: the chosen sites as an ordinary recipe; ``sesurgery.apply`` takes it.
        edits: every site, with its exact cost.
        values: what each site is worth, by the path of its layer.
        chosen: the paths that were chosen.
        check: the chosen sites, all sites and random subsets of the same cost, trained from scratch.
        budget: as it was asked for.
    """

    model: str
    recipe: Mapping[str, Any]
    edits: tuple[Edit, ...]
    values: Mapping[str, Value]
    chosen: tuple[str, ...]
    check: Comparison | None
    budget: str

    def recipe_text(self) -> str:
        """The recipe as YAML, with the costs and the evidence as comments."""
        lines = [f"# {len(self.chosen)} of {len(self.edits)} sites of {self.model}, within {self.budget}."]
        lines += ["#", "# site: parameters, MACs; worth when left out, alone, noise"]
        costs = {edit.path: edit for edit in self.edits}
        for path, value in self.values.items():
            mark = "*" if path in self.chosen else " "
            worth = f"{value.without:+.4g}, {value.alone:+.4g}, {value.noise:.2g}"
            lines.append(f"# {mark} {path}: {costs[path].params:,}, {costs[path].macs:,}; {worth}")
        for row in self.check or ():
            if row.evidence is not None and row.evidence.gain is not None:
                lines.append(
                    f"# trained from scratch, {row.name}: gain {row.evidence.gain:+.4g}, {row.evidence.verdict}"
                )
        return commented(lines, self.recipe)
