"""What every candidate of a grid costs: one recording of the model, and one count of each operated copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median
from typing import Any

from torch import nn

from sesurgery.api import resolved
from sesurgery.comparison.budget import Limit
from sesurgery.comparison.candidates import OWN, Candidate, Grid
from sesurgery.comparison.rows import COSTS, Comparison, Row
from sesurgery.edits.driver import Step, plan_step
from sesurgery.errors import InputError, NothingMatchedError, UnknownNameError
from sesurgery.models import zoo
from sesurgery.planning.insertion_costs import InsertionCosts
from sesurgery.planning.operation import drafted, rehearse
from sesurgery.planning.planner import Progress
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.plans import Cost, Edit
from sesurgery.recipe.recipe import override, to_data
from sesurgery.recipe.rules import Recipe
from sesurgery.recipe.selectors import parse_stages
from sesurgery.tracing.trace import LOCK

_SECONDS = 2.0  # of a measurement of latency


@dataclass
class Costing:
    """A model, looked at once for all candidates.

    Args:
        model: any module; it stays as it is.
        spec: how it is made by name, if it is.
        example: arguments of one forward, or None to make some.
        size: the input size, where no example is given.
    """

    model: nn.Module
    spec: zoo.ModelSpec | None
    example: Any = None
    size: Any = None
    _steps: dict[Any, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rehearsal: Rehearsal = rehearse(self.model, self.spec, self.example, self.size)
        self.anatomy = self.rehearsal.look()
        self.stages = len(self.anatomy.stages)
        self.insertions = InsertionCosts(self.rehearsal.survey)

    @property
    def control(self) -> Row:
        """The unmodified model."""
        return Row("unmodified", cost=self.rehearsal.cost(), fingerprint=digest(()))

    def row(self, candidate: Candidate) -> Row:
        """What a candidate costs, or why its recipe is refused."""
        row = Row(candidate.name, candidate.recipe.name, candidate.stages, candidate.module, dict(candidate.options))
        try:
            recipe = recipe_of(candidate)
            if candidate.stages != OWN:
                parse_stages(candidate.stages, self.stages)
            edits, cost = self._insertions(candidate) if _adds_up(recipe) else self._planned(recipe)
        except (InputError, NothingMatchedError) as error:
            return replace(row, reason=str(error).splitlines()[0])
        if not edits:
            return replace(row, reason=f"nothing matched in stages {candidate.stages}")
        data = to_data(recipe)
        return replace(row, edits=len(edits), cost=cost, fingerprint=digest(edits), recipe_data=data)

    def _insertions(self, candidate: Candidate) -> tuple[tuple[Edit, ...], Cost]:
        """Insertions keep shapes and do not see each other: those of some stages are some of all stages' edits."""
        everywhere = candidate if candidate.stages == OWN else replace(candidate, stages="all")
        key = (id(candidate.recipe), candidate.module, repr(candidate.options), candidate.stages == OWN)
        if key not in self._steps:
            with LOCK:
                self._steps[key] = plan_step(self.anatomy, recipe_of(everywhere).rules[0], 0)
        step = self._steps[key]
        edits = step.edits
        if candidate.stages not in (OWN, "all"):
            chosen = parse_stages(candidate.stages, self.stages)
            edits = tuple(edit for edit in edits if edit.stage in chosen)
        hosts = {edit.host for edit in edits}
        if any(edit.host in hosts and edit not in edits for edit in step.edits):
            return self._planned(recipe_of(candidate))
        return edits, self.insertions.of(step, edits)

    def _planned(self, recipe: Recipe) -> tuple[tuple[Edit, ...], Cost]:
        plan = drafted(self.model, self.spec, recipe, self.rehearsal.example, None, None).plan
        assert plan.after is not None
        return plan.edits, plan.after


def recipe_of(candidate: Candidate) -> Recipe:
    """The candidate as an ordinary recipe. An option that nothing in it knows is left out.

    Raises:
        InputError: a value that will not do.
    """
    options = dict(candidate.options)
    while True:
        try:
            return override(
                candidate.recipe,
                stages=candidate.stages or None,
                module=candidate.module,
                options=options,
            )
        except UnknownNameError as error:
            if error.name not in options:
                raise
            del options[error.name]


def _adds_up(recipe: Recipe) -> bool:
    return len(recipe.rules) == 1 and recipe.rules[0].action == "insert"


def digest(edits: Iterable[Edit]) -> str:
    """What tells operations apart: their edits, whatever the recipe was called."""
    data = [(edit.action, edit.path, edit.host, vars(edit.change)) for edit in edits]
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=vars).encode()).hexdigest()[:16]


def costed(costing: Costing, grid: Grid, limits: tuple[Limit, ...], report: Progress | None) -> tuple[Row, list[Row]]:
    """The unmodified model and every different candidate, each with its costs and by how much it is over budget.

    Raises:
        InputError: an option that no candidate knows, or a stage that the model does not have.
    """
    candidates = list(grid.candidates(costing.stages))
    control = costing.control
    rows: dict[str, Row] = {}
    for number, candidate in enumerate(candidates):
        if report is not None:
            report("counting the costs", number, len(candidates))
        row = costing.row(candidate)
        key = row.fingerprint or f"{row.name}: {row.reason}"
        if key in rows:
            rows[key] = replace(rows[key], also=(*rows[key].also, row.name))
        else:
            rows[key] = replace(row, over=excess(row, control, limits))
    _check_options(grid)
    return control, list(rows.values())


def _check_options(grid: Grid) -> None:
    """Raise for an option that nothing in the whole grid knows: it would silently do nothing."""
    for key, values in grid.options.items():
        pairs = product(grid.recipes, grid.modules or (None,))
        problems = [_unknown(recipe, name, key, values[0]) for recipe, name in pairs]
        if all(problems):
            raise next(filter(None, problems))


def _unknown(recipe: Recipe, module: str | None, key: str, value: Any) -> UnknownNameError | None:
    try:
        override(recipe, module=module, options={key: value})
    except UnknownNameError as error:
        return error if error.name == key else None
    except InputError:
        pass
    return None


def rival(reference: str, example: Any, size: Any) -> Row:
    """Another model, as it is."""
    body, spec = resolved(reference, None, "meta")
    key = hashlib.sha256(f"model {reference}".encode()).hexdigest()[:16]
    cost = rehearse(body, spec, example, size).cost()
    return Row(reference, cost=cost, fingerprint=key, other=reference)


def timed(
    comparison: Comparison, source: Callable[[str, int], nn.Module], limits: tuple[Limit, ...], report: Progress | None
) -> Comparison:
    """The comparison with the latency of what is within the budget, and what is over the budget by it."""
    from sesurgery.timing.latency import latency

    keys = list(comparison.recipes())
    results = {}
    for number, key in enumerate(keys):
        if report is not None:
            report("measuring latency", number, len(keys))
        results[key] = latency(source(key, 0), seconds=_SECONDS)
    if not results:
        return comparison
    control = replace(comparison.control, latency=median(result.before for result in results.values()))
    assert control.latency is not None
    rows: list[Row] = []
    for row in comparison:
        if row.fingerprint in results:
            row = replace(row, latency=results[row.fingerprint].ratio * control.latency)
            row = replace(row, over=excess(row, control, limits))
        rows.append(row)
    return replace(comparison, control=control, rows=tuple(rows))


def excess(row: Row, control: Row, limits: Iterable[Limit]) -> dict[str, float]:
    """By how much a row is over budget, by measure."""
    if row.cost is None:
        return {}
    over = {limit.measure: limit.excess(control.measure(limit.measure), row.measure(limit.measure)) for limit in limits}
    return {name: value for name, value in over.items() if value > 0}


def pareto(rows: list[Row]) -> list[Row]:
    """The rows with their marks: no other row is at least as good in every cost (and value) and better in one."""
    points = [_aims(row) for row in rows]
    best: list[tuple[float, ...]] = []
    for point in sorted({point for point in points if point is not None}):  # whatever is better than it came before
        if not any(_better(other, point) for other in best):
            best.append(point)
    front = set(best)
    return [replace(row, pareto=point in front) for row, point in zip(rows, points, strict=True)]


def _aims(row: Row) -> tuple[float, ...] | None:
    if row.cost is None:
        return None
    known = tuple(value for name in COSTS if (value := row.measure(name)) == value)
    return known if row.evidence is None or row.evidence.gain is None else (*known, -row.evidence.gain)


def _better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    same = len(one) == len(other)  # a row that was not trained says nothing about one that was
    return same and one != other and all(here <= there for here, there in zip(one, other, strict=True))
