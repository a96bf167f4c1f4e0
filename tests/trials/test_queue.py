"""The queue: who dies loses nothing, and nobody runs what another runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sesurgery.errors import InputError
from sesurgery.trials.queue import Job, Queue

JOBS = [Job(key, f"candidate {key}", {"recipe": key}, seed) for seed in (0, 1) for key in "ab"]


def queue(folder: Path, question: str = "?") -> Queue:
    return Queue(folder, None, question, {"recipe": ["a", "b"]})


def test_two_workers_never_hold_the_same_job(tmp_path: Path) -> None:
    with queue(tmp_path) as one, queue(tmp_path) as two:
        claimed = [worker.claim(JOBS) for worker in (one, two, one, two)]
        assert {job.id for claim in claimed if claim for _, job in [claim]} == {job.id for job in JOBS}
        assert one.claim(JOBS) is None
        for worker, claim in zip((one, two, one, two), claimed, strict=True):
            assert claim is not None
            worker.end(claim[0], {"value": float(claim[1].seed)}, "value")
        assert {ended.id: ended.values["value"] for ended in two.ended()} == {job.id: job.seed for job in JOBS}
        assert one.claim(JOBS) is None


def test_a_dead_workers_job_is_free_again(tmp_path: Path) -> None:
    with queue(tmp_path) as dead:
        claim = dead.claim(JOBS[:1])
        assert claim is not None
    with queue(tmp_path) as alive:
        again = alive.claim(JOBS[:1])
        assert again is not None
        assert again[1] == claim[1]
        dead.end(claim[0], {"value": 5.0}, "value")  # it was not dead: its result comes too late
        alive.end(again[0], {"value": 1.0}, "value")
        assert [ended.values for ended in alive.ended()] == [{"value": 1.0}]


def test_a_study_may_grow(tmp_path: Path) -> None:
    with queue(tmp_path) as worker:
        for size in (1, 3):
            while (claim := worker.claim(JOBS[:size])) is not None:
                worker.end(claim[0], {"value": 0.0}, "value")
        assert len(worker.ended()) == 3


def test_another_question_is_refused(tmp_path: Path) -> None:
    with queue(tmp_path):
        pass
    with pytest.raises(InputError, match="something else"), queue(tmp_path, "other"):
        pass
