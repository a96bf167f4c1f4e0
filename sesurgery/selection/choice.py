"""Which sites to take: a knapsack under budgets, solved by ``scipy.optimize.milp``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from sesurgery.errors import NothingMatchedError


def chosen(values: Sequence[float], costs: Mapping[str, Sequence[float]], limits: Mapping[str, float]) -> list[int]:
    """The indices of the items whose values add up to the most, with every sum of costs within its limit.

    Args:
        values: of the items; one that is not above 0 is never taken.
        costs: of the items, by measure.
        limits: the most that each measure's sum may be.

    Raises:
        NothingMatchedError: no item is worth something and within the limits.
    """
    worth = np.asarray(values, dtype=float)
    if not (worth > 0).any():
        problem = "the validation is no better with any single layer"
        raise NothingMatchedError(problem, remedy="train for longer, judge on more data, or try another layer")
    constraints = [
        optimize.LinearConstraint(np.asarray(costs[name], dtype=float)[None, :], -np.inf, limit)
        for name, limit in limits.items()
    ]
    upper: Any = (worth > 0).astype(float)  # scipy takes arrays; its signature says float
    result = optimize.milp(
        c=-worth,
        constraints=constraints,
        integrality=np.ones_like(worth),
        bounds=optimize.Bounds(0, upper),
    )
    if result.x is None or not (result.x > 0.5).any():
        raise NothingMatchedError("no site is worth something within the budget", remedy="give a larger budget")
    return [int(index) for index in np.flatnonzero(result.x > 0.5)]
