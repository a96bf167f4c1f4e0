"""``sesurgery.compare``: where to put it, what it costs, what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sesurgery.api import resolved
from sesurgery.comparison.budget import MEASURES, Limit, written
from sesurgery.comparison.budget import budget as budgeted
from sesurgery.comparison.candidates import RecipeLike, grid
from sesurgery.comparison.costing import Costing, costed
from sesurgery.comparison.rows import Comparison, Row
from sesurgery.errors import InputError, UnknownNameError
from sesurgery.planning.operation import name_of
from sesurgery.planning.planner import Progress
from sesurgery.trials.models import Source
from sesurgery.trials.training import Run

SORTS = (*MEASURES, "edits", "value", "none")


def compare(
    model: str | nn.Module,
    recipes: RecipeLike | Sequence[RecipeLike],
    *,
    stages: str | int | Sequence[str | int] | None = None,
    modules: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    budget: str | Mapping[str, Any] | None = None,
    sort: str | None = None,
    train: str | Run | None = None,
    seeds: int | Sequence[int] = 3,
    epochs: int | None = None,
    aim: str = "value",
    smaller: bool = False,
    pruner: str | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    jobs: int = 1,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare placements: their exact costs, and what they are worth in a training of the user's own.

    Costs need no weights: the model is recorded once on ``meta``. With ``train`` every candidate within the budget, and
    the unmodified model as the control, is trained with the same seeds; models of one seed start from the same weights,
    and Python's, NumPy's and torch's random states are the same when the training function is called.

    Args:
        model: as in :func:`sesurgery.plan`.
        recipes: names, files, mappings or recipes; or one text with commas: ``"standard,pre,post"``.
        stages: ``"each,all"``: ``each`` is a candidate a stage, ``subsets`` every set of stages, else a selection in
            which a plus stands for a comma (``1+3``). Left out: the recipes' own.
        modules: other layers in the place of the recipes' own: ``"se,eca,cbam"``.
        options: values to try, by option: ``{"reduction": [4, 8]}``.
        budget: ``"params=+5%,macs=+1%"``: params, macs, flops, activation_bytes or weight_bytes, as a share or an
            amount more than the model's, or as an amount in all (``params=26M``).
        sort: a cost, ``edits``, ``value``, or ``none`` for the order of the grid; ``value`` where there is one.
        train: ``"train.py:run"`` or a function ``run(model, trial)`` that gives a number, or a mapping of numbers.
        seeds: how many (from 0), or which.
        epochs: handed on as ``trial.epochs``.
        aim: the result that counts, where ``run`` gives several; larger is better unless ``smaller``.
        pruner: ``median`` or ``hyperband`` stops hopeless trainings early, by what ``trial.report`` says.
        folder: where results are kept: a call that was cut off goes on from there. Needed for training.
        storage: an Optuna URL in the place of the folder's journal, for workers on several machines.
        jobs: worker processes.

    Returns:
        Rows as data; ``print`` shows a table, and ``to_pandas``, ``to_csv`` give all figures.

    Raises:
        InputError: bad input, or a training that failed. Finished trainings are kept.
    """
    limits = _budget(budget)
    _check_sort(sort)
    wanted = grid(recipes, stages, modules, options)
    body, spec = resolved(model, model_args, "meta")
    costing = Costing(body, spec, example_input, input_size)
    control, rows = costed(costing, wanted, limits, progress)
    comparison = Comparison(name_of(body, spec), control, tuple(rows), written(limits))
    if train is not None:
        from sesurgery.comparison.trained import Training, trained  # Optuna and scipy are an extra

        seen_with = {"example_input": example_input, "input_size": input_size}
        source = Source(model, dict(model_args or {}), pretrained, comparison.recipes(), seen_with)
        training = Training(train, seeds, epochs, aim, smaller, pruner, folder, storage, jobs)
        comparison = trained(comparison, source, training, progress)
    return _sorted(comparison, sort or ("value" if train is not None else "params"))


def _budget(given: str | Mapping[str, Any] | None) -> tuple[Limit, ...]:
    limits = budgeted(given)
    for limit in limits:
        if limit.measure == "latency":
            raise InputError("latency is not measured here", where="budget latency", remedy="use params, macs or flops")
    return limits


def _check_sort(sort: str | None) -> None:
    if sort is not None and sort not in SORTS:
        raise UnknownNameError("order", sort, SORTS, where="sort", remedy=f"one of {', '.join(SORTS)}")


def _sorted(comparison: Comparison, by: str) -> Comparison:
    """Candidates that can be done first, then by the measure; the best value comes first."""

    def key(row: Row) -> tuple[bool, float]:
        if by == "none" or row.cost is None:
            return row.cost is None, 0.0
        if by == "value":
            gain = row.evidence.gain if row.evidence is not None else None
            return False, float("inf") if gain is None else -gain
        value = float(row.edits) if by == "edits" else row.measure(by)
        return False, float("inf") if value != value else value

    return replace(comparison, rows=tuple(sorted(comparison.rows, key=key)))
