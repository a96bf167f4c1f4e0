"""``sesurgery.compare``: where to put it, what it costs, what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from torch import nn

from sesurgery.api import resolved
from sesurgery.comparison.budget import MEASURES, written
from sesurgery.comparison.budget import budget as budgeted
from sesurgery.comparison.candidates import RecipeLike, grid, items
from sesurgery.comparison.costing import Costing, costed, pareto, rival, timed
from sesurgery.comparison.rows import Comparison, Row
from sesurgery.errors import UnknownNameError
from sesurgery.planning.operation import name_of
from sesurgery.planning.planner import Progress
from sesurgery.trials.models import Source
from sesurgery.trials.training import Training, TrainingOptions

SORTS = (*MEASURES, "edits", "value", "none")


def compare(
    model: str | nn.Module,
    recipes: RecipeLike | Sequence[RecipeLike],
    *,
    stages: str | int | Sequence[str | int] | None = None,
    modules: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    budget: str | Mapping[str, Any] | None = None,
    against: str | Sequence[str] = (),
    latency: bool = False,
    sort: str | None = None,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    progress: Progress | None = None,
    **training: Unpack[TrainingOptions],
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
            amount more than the model's, or as an amount in all (``params=26M``); latency as a share.
        against: other models by name, such as a wider or a deeper one of equal cost: what else the same cost buys. They
            are trained like the unmodified model, whatever the budget.
        latency: whether to measure, on the CPU in pairs with the unmodified model, what is within the budget.
        sort: a cost, ``edits``, ``value``, or ``none`` for the order of the grid; ``value`` where there is one.
        train: ``"train.py:run"`` or a function ``run(model, trial)`` that gives a number, or a mapping of numbers.
        seeds: how many (from 0), or which.
        epochs: handed on as ``trial.epochs``.
        aim: the result that counts, where ``run`` gives several; larger is better unless ``smaller``.
        pruner: ``median`` or ``hyperband`` stops hopeless trainings early, by what ``trial.report`` says.
        sampler: ``grid`` trains every candidate within the budget; ``tpe`` and ``nsga2`` choose as results come in,
            ``nsga2`` for few parameters and MACs too.
        trials: how many candidates they choose.
        folder: where results are kept: a call that was cut off goes on from there. Needed for training.
        storage: an Optuna URL in the place of the folder's journal, for workers on several machines.
        jobs: worker processes.

    Returns:
        Rows as data; ``print`` shows a table, and ``to_pandas``, ``to_csv`` give all figures.

    Raises:
        InputError: bad input, or a training that failed. Finished trainings are kept.
    """
    limits = budgeted(budget)
    _check_sort(sort)
    judge = _judge(training)
    body, spec = resolved(model, model_args, "meta")
    costing = Costing(body, spec, example_input, input_size)
    control, rows = costed(costing, grid(recipes, stages, modules, options), limits, progress)
    others = [rival(reference, example_input, input_size) for reference in items(against)]
    comparison = Comparison(name_of(body, spec), control, tuple(pareto([*rows, *others])), written(limits))
    seen_with = {"example_input": example_input, "input_size": input_size}
    elsewhere = {row.fingerprint: row.other for row in others}
    source = Source(model, dict(model_args or {}), pretrained, comparison.recipes(), seen_with, elsewhere)
    if latency or any(limit.measure == "latency" for limit in limits):
        comparison = timed(comparison, source, limits, progress)
    if judge is not None:
        comparison = judge(comparison, source, progress)
    return _sorted(comparison, sort or ("value" if judge else "params"))


def _judge(given: TrainingOptions) -> Callable[[Comparison, Source, Progress | None], Comparison] | None:
    """Trains candidates as asked for, or None. Optuna and scipy, which it needs, are an extra."""
    training = Training(**given)
    if training.train is None:
        return None
    from sesurgery.comparison.trained import trained
    from sesurgery.trials.samplers import sampling

    choice = sampling(training.sampler, training.trials, training.pruner)

    def judged(comparison: Comparison, source: Source, progress: Progress | None) -> Comparison:
        within = replace(source, recipes=comparison.recipes())
        return trained(comparison, within, training, choice, progress)

    return judged


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
