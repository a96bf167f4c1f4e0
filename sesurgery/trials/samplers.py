"""Optuna's samplers and pruners by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna

from sesurgery.errors import InputError

_PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}
_SAMPLERS = ("grid", "tpe", "nsga2")


def pruner(name: str | None) -> optuna.pruners.BasePruner:
    """``median`` or ``hyperband``; None is ``none``. Raises ``InputError`` for another."""
    if name is not None and name not in _PRUNERS:
        raise InputError(f'unknown pruner "{name}"', remedy="none, median or hyperband")
    return _PRUNERS[name or "none"]()


@dataclass(frozen=True)
class Sampling:
    """Which candidates are trained.

    Attributes:
        name: ``grid`` trains all; ``tpe`` goes where values were good; ``nsga2`` looks for candidates that none
            beats in value, parameters and MACs at once.
        most: how many candidates ``tpe`` and ``nsga2`` train.
    """

    name: str = "grid"
    most: int | None = None

    @property
    def several(self) -> bool:
        """Whether parameters and MACs are aims too."""
        return self.name == "nsga2"

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler that draws from here on."""
        if self.several:
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, (self.most or 0) // 3))
        return optuna.samplers.TPESampler(seed=seed)


EVERY = Sampling()


def sampling(name: str | None, most: int | None, pruner: str | None) -> Sampling:
    """A sampling that was asked for.

    Raises:
        InputError: no such sampler, or what goes with it is missing or does not go with it.
    """
    name = name or "grid"
    if name not in _SAMPLERS:
        raise InputError(f'unknown sampler "{name}"', remedy="grid, tpe or nsga2")
    if name == "grid" and most is not None:
        raise InputError("a grid trains all candidates", where="trials", remedy="leave it out, or choose tpe or nsga2")
    if name != "grid" and (most is None or most < 1):
        problem = f"{name} has to know how many candidates to train"
        raise InputError(problem, where="trials", remedy="give a number, such as 20")
    if name == "nsga2" and pruner not in (None, "none"):
        raise InputError("a pruner needs a single aim", where="pruner", remedy="leave it out, or choose tpe")
    return Sampling(name, most)
