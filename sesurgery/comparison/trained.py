"""A comparison with evidence: every candidate within the budget trained beside the unmodified model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sesurgery.comparison.costing import pareto
from sesurgery.comparison.evidence import evidence
from sesurgery.comparison.rows import Comparison, Row, nearest
from sesurgery.errors import InputError, NothingMatchedError
from sesurgery.planning.planner import Progress
from sesurgery.trials.models import Source
from sesurgery.trials.queue import Ended, Job
from sesurgery.trials.training import Run
from sesurgery.trials.workers import Work, run_all


@dataclass(frozen=True)
class Training:
    """How candidates are trained; the fields are arguments of :func:`sesurgery.compare`."""

    train: str | Run
    seeds: int | Sequence[int]
    epochs: int | None
    aim: str
    smaller: bool
    pruner: str | None
    folder: str | Path | None
    storage: str | None
    jobs: int


def trained(comparison: Comparison, source: Source, training: Training, progress: Progress | None) -> Comparison:
    """The comparison with what training says.

    Raises:
        NothingMatchedError: nothing is within the budget.
        InputError: bad input, or a training that failed.
    """
    rows = [row for row in comparison if row.within]
    if not rows:
        raise NothingMatchedError(nearest(comparison), where="budget")
    work = _work(comparison.control, rows, source, training)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("training", done, total)

    ended = run_all(work, training.jobs, report)
    control = _evidence(ended, comparison.control, comparison.control, training)
    judged = [_evidence(ended, row, comparison.control, training) if row.within else row for row in comparison]
    return replace(comparison, control=control, rows=tuple(pareto(judged)), aim=training.aim)


def _work(control: Row, rows: Sequence[Row], source: Source, training: Training) -> Work:
    if training.folder is None:
        raise InputError("trainings need a folder for their results", where="folder", remedy="give one; it may be new")
    if training.jobs < 1:
        raise InputError(f"{training.jobs} workers are none", where="jobs", remedy="give 1 or more")
    question = f"{source.digest()} {training.train if isinstance(training.train, str) else training.train.__qualname__}"
    seeds = seeds_of(training.seeds)
    columns = [_params(row) for row in (control, *rows)]
    choices = {key: list(dict.fromkeys(column[key] for column in columns)) for key in columns[0]}
    return Work(
        build=source,
        jobs=tuple(
            Job(row.fingerprint, row.name, params, seed)
            for seed in seeds
            for row, params in zip((control, *rows), columns, strict=True)
        ),
        question=f"{question} {training.epochs} {training.aim}",
        choices=choices,
        train=training.train,
        aim=training.aim,
        smaller=training.smaller,
        folder=Path(training.folder),
        epochs=training.epochs,
        storage=training.storage,
        pruner=training.pruner,
    )


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """``3`` is 0, 1, 2. Raises ``InputError`` for none."""
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not chosen:
        raise InputError("no seed to train with", where="seeds", remedy="give 1 or more; 5 tell noise from gain")
    return chosen


def _params(row: Row) -> dict[str, Any]:
    """The coordinates of a row in the grid; Optuna takes plain values."""
    options = " ".join(f"{key}={value}" for key, value in row.options.items())
    return {"recipe": row.recipe, "stages": row.stages, "module": row.module or "", "options": options}


def _evidence(ended: Sequence[Ended], row: Row, control: Row, training: Training) -> Row:
    seeds = set(seeds_of(training.seeds))

    def of(key: str) -> dict[int, Mapping[str, float]]:
        return {one.seed: one.values for one in ended if one.key == key and not one.pruned and one.seed in seeds}

    pruned = sum(one.pruned for one in ended if one.key == row.fingerprint)
    base = of(control.fingerprint)
    own = base if row is control else of(row.fingerprint)
    return replace(row, evidence=evidence(own, base, training.aim, training.smaller, pruned))
