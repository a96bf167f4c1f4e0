"""What trainings say: paired gains, their interval, and the words for noise."""

from __future__ import annotations

import numpy as np
import pytest

from sesurgery.comparison.evidence import NOISE, evidence, interval


def results(*values: float) -> dict[int, dict[str, float]]:
    return {seed: {"accuracy": value, "loss": 1 - value} for seed, value in enumerate(values)}


CONTROL = results(0.70, 0.72, 0.71, 0.69, 0.73)


def test_a_gain_above_the_noise_is_better() -> None:
    told = evidence(results(0.75, 0.78, 0.755, 0.74, 0.78), CONTROL, "accuracy", smaller=False)
    assert told is not None
    assert told.verdict == "better"
    assert told.gain == pytest.approx(np.mean([0.05, 0.06, 0.045, 0.05, 0.05]))
    low, high = told.interval or (0.0, 0.0)
    assert 0 < low < told.gain < high
    assert told.others["loss"] == pytest.approx(1 - told.mean)


def test_less_is_better_where_it_was_said() -> None:
    told = evidence(results(0.75, 0.78, 0.755, 0.74, 0.78), CONTROL, "accuracy", smaller=True)
    assert told is not None
    assert told.verdict == "worse"


def test_noise_is_called_noise() -> None:
    told = evidence(results(0.72, 0.70, 0.72, 0.68, 0.735), CONTROL, "accuracy", smaller=False)
    assert told is not None
    assert told.verdict == NOISE


def test_pairs_take_out_what_the_seed_does() -> None:
    """The spread between seeds is ten times the gain, and the gain is seen."""
    control = results(0.1, 0.9, 0.4, 0.6, 0.2)
    told = evidence(results(0.13, 0.92, 0.43, 0.62, 0.225), control, "accuracy", smaller=False)
    assert told is not None
    assert told.verdict == "better"


def test_one_seed_tells_nothing_about_noise() -> None:
    told = evidence(results(0.9), CONTROL, "accuracy", smaller=False)
    assert told is not None
    assert told.interval is None
    assert "one seed" in told.verdict


def test_no_difference_at_all_is_noise() -> None:
    told = evidence(CONTROL | {}, CONTROL, "accuracy", smaller=False)
    assert told is not None
    assert told.verdict == NOISE


def test_the_interval_covers() -> None:
    """Of five paired differences without a true one, few intervals leave out zero."""
    draw = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        low, high = interval(draw.normal(size=5).tolist()) or (0.0, 0.0)
        missed += not low <= 0 <= high
    assert missed <= 20
