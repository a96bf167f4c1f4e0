"""One training: the user's own function, called with a model and a seed, and what it may give back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from sesurgery.errors import InputError
from sesurgery.words.user_code import FOREIGN, import_file, placed

EXAMPLE = "train.py:run"


@dataclass
class Trial:
    """What a training function is told.

    Attributes:
        seed: the seed of this training; Python's, NumPy's and torch's random states are set to it before the call.
        epochs: how many the user asked for; None where they did not.
        params: what is trained: ``recipe``, ``stages``, ``module`` and each option; empty for the unmodified model.
    """

    seed: int
    epochs: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    _optuna: Any = None

    def report(self, step: int, value: float) -> None:
        """Say how good it is so far; stops the training where a pruner finds it hopeless."""
        if self._optuna is not None:
            self._optuna.report(float(value), step)
            if self._optuna.should_prune():
                raise Stopped


class Stopped(Exception):
    """A training that a pruner found hopeless."""


Run = Callable[[nn.Module, Trial], Any]


class TrainingOptions(TypedDict, total=False):
    """How candidates are trained, as keyword arguments; :func:`sesurgery.compare` says what they mean."""

    train: str | Run | None
    seeds: int | Sequence[int]
    epochs: int | None
    aim: str
    smaller: bool
    pruner: str | None
    sampler: str | None
    trials: int | None
    folder: str | Path | None
    storage: str | None
    jobs: int


@dataclass(frozen=True)
class Training:
    """The same with what holds where nothing is said."""

    train: str | Run | None = None
    seeds: int | Sequence[int] = 3
    epochs: int | None = None
    aim: str = "value"
    smaller: bool = False
    pruner: str | None = None
    sampler: str | None = None
    trials: int | None = None
    folder: str | Path | None = None
    storage: str | None = None
    jobs: int = 1


def training_function(reference: str | Run) -> Run:
    """The function that ``train.py:run`` names; a function is given back as it is.

    Raises:
        InputError: no such file or function, or the file fails when it is imported.
    """
    if callable(reference):
        return reference
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError("no training function", where=reference, remedy=f"write it as {EXAMPLE}")
    run = getattr(import_file(file, EXAMPLE), name, None)
    if not callable(run):
        raise InputError(f'"{name}" is no function of it', where=file, remedy=f"define: def {name}(model, trial): ...")
    return run


def seeded(seed: int) -> None:
    """Set every random state that a training usually draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def results(run: Run, model: nn.Module, trial: Trial, aim: str) -> dict[str, float]:
    """Train, and read what came of it.

    Raises:
        InputError: the function raises, or gives back anything but a finite number or a mapping of them.
        Stopped: a pruner ended it early.
    """
    seeded(trial.seed)
    try:
        outcome = run(model, trial)
    except Stopped:
        raise
    except FOREIGN as error:
        file = getattr(getattr(run, "__code__", None), "co_filename", None)
        raise InputError(f"the training failed with {placed(error, file)}", where=_where(trial)) from error
    values = outcome if isinstance(outcome, Mapping) else {aim: outcome}
    if aim not in values:
        given = ", ".join(map(str, values)) or "nothing"
        raise InputError(f'the training gives no "{aim}" but {given}', where=_where(trial), remedy="name it: aim=...")
    return {str(name): _finite(name, value, trial) for name, value in values.items()}


def _finite(name: Any, value: Any, trial: Trial) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(f'the training gives {kind} as "{name}"', where=_where(trial), remedy="return a number")
    if not math.isfinite(value):
        remedy = "return a finite number; a training that diverged may return the worst there is, such as accuracy 0"
        raise InputError(f'the training gives {float(value)} as "{name}"', where=_where(trial), remedy=remedy)
    return float(value)


def _where(trial: Trial) -> str:
    return f"seed {trial.seed}" + "".join(f", {key} {value}" for key, value in trial.params.items())
