"""SIGKILL workers of one study at random moments; then see that every job ended exactly once, with its own result."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from optuna.trial import TrialState
from torch import nn

from sesurgery.trials.queue import Job
from sesurgery.trials.training import Trial
from sesurgery.trials.workers import Work, worker

KEYS, SEEDS, WORKERS = 8, 5, 4


def built(key: str, seed: int) -> nn.Module:
    """A model that knows which job it is for."""
    model = nn.Linear(1, 1)
    model.job = (key, seed)  # type: ignore[assignment]
    return model


def trained(model: nn.Module, trial: Trial) -> float:
    """A result that only this job can have."""
    key, seed = model.job
    (Path(trial.params["place"]) / str(os.getpid())).touch()
    time.sleep(random.Random(os.getpid() * 1000 + seed).uniform(0.0, 0.2))
    return result_of(key, seed)


def result_of(key: str, seed: int) -> float:
    """What a job gives."""
    return float(int(key) * 100 + seed)


def work(folder: Path, storage: str | None, jobs: int = KEYS * SEEDS) -> Work:
    """A study of forty jobs, or fewer."""
    grid = [
        Job(str(key), f"candidate {key}", {"recipe": str(key), "place": str(folder)}, seed)
        for seed in range(SEEDS)
        for key in range(KEYS)
    ]
    choices = {"recipe": [str(key) for key in range(KEYS)], "place": [str(folder)]}
    return Work(built, tuple(grid[:jobs]), "kills", choices, trained, "value", False, folder, storage=storage)


def run(kills: int, seed: int, folder: Path, storage: str | None = None, jobs: int = KEYS * SEEDS) -> Counter[str]:
    """Kill so many workers, each replaced at once, let the study end, and count what became of its jobs."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    rounds = 0
    while counts["kills"] < kills:
        # A study ends before enough workers are killed: the next one goes on in a folder of its own.
        place = folder / str(rounds)
        place.mkdir()
        url = None if storage is None else storage.format(rounds)
        counts += _one_study(kills - counts["kills"], draw, place, url, jobs)
        rounds += 1
    return counts


def _one_study(kills: int, draw: random.Random, folder: Path, storage: str | None, jobs: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    wanted = work(folder, storage, jobs)
    workers = [_start(wanted) for _ in range(WORKERS)]
    try:
        while any(process.is_alive() for process in workers):
            time.sleep(draw.uniform(0.05, 0.4))
            index = draw.randrange(WORKERS)
            at_work = (folder / str(workers[index].pid)).exists()  # a worker that still imports torch shows nothing
            if counts["kills"] < kills and at_work and workers[index].is_alive():
                workers[index].kill()
                workers[index].join()
                counts["kills"] += 1
                workers[index] = _start(wanted)
    finally:
        for process in workers:
            process.kill()
    counts.update(_checked(wanted))
    return counts


def _checked(wanted: Work) -> Counter[str]:
    with wanted.queue() as queue:
        trials = queue.study.get_trials(deepcopy=False)
    complete = Counter(trial.user_attrs["job"] for trial in trials if trial.state == TrialState.COMPLETE)
    right = {job.id: result_of(job.key, job.seed) for job in wanted.jobs}
    counts = Counter(jobs=len(right), failed_with_their_worker=sum(trial.state == TrialState.FAIL for trial in trials))
    counts["ended once"] = sum(complete[job] == 1 for job in right)
    counts["lost"] = sum(complete[job] == 0 for job in right)
    counts["run twice"] = sum(complete[job] > 1 for job in right)
    wrong = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value != right[trial.user_attrs["job"]]
    ]
    counts["wrong"] = len(wrong)
    return counts


def _start(wanted: Work) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")  # which has imported torch: fifty workers come and go
    context.set_forkserver_preload(["study_kills"])
    process = context.Process(target=worker, args=(wanted,), daemon=True)
    process.start()
    return process
