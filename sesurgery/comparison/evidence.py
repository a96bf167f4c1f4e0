"""What trainings say: the gain over the unmodified model of the same seed, and whether it is more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from sesurgery.comparison.rows import Evidence

NOISE = "no difference beyond noise"
_DRAWS = 9999


def evidence(
    results: Mapping[int, Mapping[str, float]],
    control: Mapping[int, Mapping[str, float]],
    aim: str,
    smaller: bool,
    pruned: int = 0,
) -> Evidence | None:
    """The evidence for one candidate; None where no training has ended.

    Args:
        results: the results by seed, by name.
        control: those of the unmodified model.
        aim: the result that counts; less of it is better where ``smaller``.
        pruned: how many trainings were stopped early.
    """
    if not results:
        return Evidence({}, float("nan"), verdict="stopped early") if pruned else None
    values = {seed: found[aim] for seed, found in sorted(results.items())}
    others = {
        name: float(np.mean([one[name] for one in results.values() if name in one]))
        for name in next(iter(results.values()))
        if name != aim
    }
    mean = float(np.mean(list(values.values())))
    paired = [seed for seed in values if seed in control]
    if not paired or results is control:
        return Evidence(values, mean, others=others)
    sign = -1.0 if smaller else 1.0
    gains = [sign * (values[seed] - control[seed][aim]) for seed in paired]
    bounds = interval(gains)
    verdict = _verdict(bounds) + (f", {pruned} stopped early" if pruned else "")
    return Evidence(values, mean, float(np.mean(gains)), bounds, verdict, others)


def interval(gains: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the mean of paired differences; None for fewer than two of them."""
    if len(gains) < 2:
        return None
    if np.ptp(gains) == 0:
        return (float(gains[0]), float(gains[0]))
    drawn = stats.bootstrap(
        (np.asarray(gains),), np.mean, n_resamples=_DRAWS, method="percentile", rng=np.random.default_rng(0)
    )
    # A bootstrap of few differences is too narrow by this factor: the spread of n values is divided by n, not by n - 1.
    mean, wider = float(np.mean(gains)), float(np.sqrt(len(gains) / (len(gains) - 1)))
    low, high = (mean + wider * (bound - mean) for bound in drawn.confidence_interval)
    return (float(low), float(high))


def _verdict(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "one seed: the noise is unknown"
    low, high = bounds
    if low > 0:
        return "better"
    return "worse" if high < 0 else NOISE
