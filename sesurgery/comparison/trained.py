"""A comparison with evidence: every candidate within the budget trained beside the unmodified model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sesurgery.comparison.costing import pareto
from sesurgery.comparison.evidence import evidence
from sesurgery.comparison.rows import Comparison, Row, nearest
from sesurgery.errors import InputError, NothingMatchedError
from sesurgery.planning.planner import Progress
from sesurgery.trials.models import Source
from sesurgery.trials.queue import Ended, Job
from sesurgery.trials.samplers import Sampling
from sesurgery.trials.training import Training
from sesurgery.trials.workers import Work, run_all


def trained(
    comparison: Comparison, source: Source, training: Training, sampling: Sampling, progress: Progress | None
) -> Comparison:
    """The comparison with what training says.

    Raises:
        NothingMatchedError: nothing is within the budget.
        InputError: bad input, or a training that failed.
    """
    rows = [row for row in comparison if row.within]
    if not comparison.recipes():
        raise NothingMatchedError(nearest(comparison), where="budget")
    work = _work(comparison.control, rows, source, training, sampling)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("training", done, total)

    ended = run_all(work, training.jobs, report)
    control = _evidence(ended, comparison.control, comparison.control, training)
    judged = [_evidence(ended, row, comparison.control, training) if row.within else row for row in comparison]
    return replace(comparison, control=control, rows=tuple(pareto(judged)), aim=training.aim)


def _work(control: Row, rows: Sequence[Row], source: Source, training: Training, sampling: Sampling) -> Work:
    if training.folder is None:
        raise InputError("trainings need a folder for their results", where="folder", remedy="give one; it may be new")
    if training.jobs < 1:
        raise InputError(f"{training.jobs} workers are none", where="jobs", remedy="give 1 or more")
    assert training.train is not None
    question = f"{source.digest()} {training.train if isinstance(training.train, str) else training.train.__qualname__}"
    seeds = seeds_of(training.seeds)
    options = list(dict.fromkeys(key for row in rows for key in row.options))
    columns = [_params(row, options) for row in (control, *rows)]
    choices = {key: list(dict.fromkeys(column[key] for column in columns)) for key in columns[0]}
    return Work(
        build=source,
        jobs=tuple(
            Job(row.fingerprint, row.name, params, seed, (row.measure("params"), row.measure("macs")), row.plain)
            for seed in seeds
            for row, params in zip((control, *rows), columns, strict=True)
        ),
        question=f"{question} {training.epochs} {training.aim}" + " of several aims" * sampling.several,
        choices=choices,
        train=training.train,
        aim=training.aim,
        smaller=training.smaller,
        folder=Path(training.folder),
        epochs=training.epochs,
        storage=training.storage,
        pruner=training.pruner,
        sampling=sampling,
    )


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """``3`` is 0, 1, 2. Raises ``InputError`` for none."""
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not chosen:
        raise InputError("no seed to train with", where="seeds", remedy="give 1 or more; 5 tell noise from gain")
    return chosen


def _params(row: Row, options: Sequence[str]) -> dict[str, Any]:
    """The coordinates of a row in the grid; Optuna takes plain values."""
    values = {key: row.options.get(key, "") for key in options}
    plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in values.items()}
    return {"recipe": row.other or row.recipe, "stages": row.stages, "module": row.module or "", **plain}


def _evidence(ended: Sequence[Ended], row: Row, control: Row, training: Training) -> Row:
    seeds = set(seeds_of(training.seeds))

    def of(key: str) -> dict[int, Mapping[str, float]]:
        return {one.seed: one.values for one in ended if one.key == key and not one.pruned and one.seed in seeds}

    pruned = sum(one.pruned for one in ended if one.key == row.fingerprint)
    base = of(control.fingerprint)
    own = base if row is control else of(row.fingerprint)
    return replace(row, evidence=evidence(own, base, training.aim, training.smaller, pruned))
