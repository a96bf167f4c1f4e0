"""The value of each site, from one training with layers at all sites and a random switch for each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from torch import nn

from sesurgery.errors import InputError
from sesurgery.selection.result import Value
from sesurgery.selection.statistics import batch_norms, renewed
from sesurgery.selection.switches import Switches
from sesurgery.trials.training import Run, Trial, results

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Judge:
    """The user's own functions, and how their results are read.

    Attributes:
        train: ``run(model, trial)``; what it returns is not used for the ranking.
        validate: ``validate(model, trial)``: how good a model is; ``trial.seed`` may choose its data.
        repeats: validations of each setting, with seeds 0, 1, …
    """

    train: Run
    validate: Run
    aim: str
    smaller: bool
    epochs: int | None
    repeats: int


def ranked(
    model: nn.Module, paths: Collection[str], judge: Judge, seed: int, report: Progress | None = None
) -> dict[str, Value]:
    """The value of the layers at ``paths`` of an operated model, which is trained for it.

    Raises:
        InputError: a training or validation failed, or gives what is no number.
    """
    order = sorted(paths)
    with Switches(model, order, seed).installed() as switches:
        model.train()
        results(judge.train, model, Trial(seed, judge.epochs, {"recipe": "every site, switched at random"}), judge.aim)
        model.eval()
        total = 2 + 2 * len(order)

        def of(on: set[str], number: int) -> np.ndarray:
            if report is not None:
                report(number, total)
            return _validated(model, switches, on, judge)

        everything, nothing = of(set(order), 0), of(set(), 1)
        values = {}
        for index, path in enumerate(order):
            without = everything - of(set(order) - {path}, 2 + 2 * index)
            alone = of({path}, 3 + 2 * index) - nothing
            mean = (without + alone) / 2
            noise = float(mean.std(ddof=1) / np.sqrt(len(mean))) if len(mean) > 1 else float("nan")
            values[path] = Value(float(without.mean()), float(alone.mean()), noise)
    return values


def _validated(model: nn.Module, switches: Switches, on: set[str], judge: Judge) -> np.ndarray:
    def value(seed: int) -> float:
        switches.on = on  # a step of training in the validation before drew others
        result = results(judge.validate, model, Trial(seed, judge.epochs), judge.aim)[judge.aim]
        if model.training:
            raise InputError("the validation puts the model in train mode", remedy="call model.eval() in it")
        return result

    if norms := batch_norms(model):
        with renewed(norms):
            value(0)
    values = np.asarray([value(seed) for seed in range(judge.repeats)])
    return -values if judge.smaller else values
