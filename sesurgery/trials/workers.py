"""Workers: processes that claim jobs until all have ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sesurgery.errors import InputError
from sesurgery.trials.queue import Ended, Job, Queue
from sesurgery.trials.samplers import EVERY, Sampling, pruner
from sesurgery.trials.training import Run, Stopped, Trial, results, training_function

Build = Callable[[str, int], nn.Module]
_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; another process gets it by pickle.

    Attributes:
        build: makes the model of a candidate's key for a seed.
        jobs: all jobs of the study.
        question: what the study is about, as a digest.
        choices: the values of each parameter of the grid.
        train: ``train.py:run``, or a function.
        aim: the result that counts.
    """

    build: Build
    jobs: tuple[Job, ...]
    question: str
    choices: Mapping[str, Sequence[Any]]
    train: str | Run
    aim: str
    smaller: bool
    folder: Path
    epochs: int | None = None
    storage: str | None = None
    pruner: str | None = None
    sampling: Sampling = EVERY

    def queue(self) -> Queue:
        """The study. Raises ``InputError`` where the storage will not do."""
        stops = pruner(self.pruner)
        return Queue(self.folder, self.storage, self.question, self.choices, self.smaller, stops, self.sampling)

    @property
    def total(self) -> int:
        """How many jobs will have ended."""
        if self.sampling.most is None:
            return len(self.jobs)
        always = {job.key for job in self.jobs if job.always}
        most = min(self.sampling.most, len({job.key for job in self.jobs} - always))
        return len({job.seed for job in self.jobs}) * (len(always) + most)


def run_all(work: Work, workers: int, report: Callable[[int, int], None]) -> list[Ended]:
    """Run the jobs that have not ended, and give the results of all.

    Args:
        workers: how many processes; 1 runs them in this one.
        report: told how many jobs have ended, of how many.

    Raises:
        InputError: a training failed, or gave back what is no number. What has ended is kept.
    """
    training_function(work.train)
    ours = {job.id for job in work.jobs}
    with work.queue() as queue:
        if workers == 1:
            _work(queue, work, report)
        else:
            _supervise(queue, work, workers, report)
        return [ended for ended in queue.ended() if ended.id in ours]


def _work(queue: Queue, work: Work, report: Callable[[int, int], None]) -> None:
    run = training_function(work.train)
    while True:
        done = queue.done(work.jobs)
        report(done, work.total)
        if done == work.total:
            return
        claimed = queue.claim(work.jobs)
        if claimed is None:  # the rest runs elsewhere; whoever runs it may die
            time.sleep(_POLL)
            continue
        trial, job = claimed
        params = job.params if any(job.params.values()) else {}
        stoppable = not (job.always or work.sampling.several)
        told = Trial(job.seed, work.epochs, params, trial if stoppable else None)
        try:
            queue.end(trial, results(run, work.build(job.key, job.seed), told, work.aim), work.aim)
        except Stopped:
            queue.prune(trial)
        except InputError as error:
            queue.fail(trial, str(error))
            raise


def _supervise(queue: Queue, work: Work, workers: int, report: Callable[[int, int], None]) -> None:
    context = multiprocessing.get_context("spawn")
    start = len(queue.study.trials)
    processes = [context.Process(target=worker, args=(work,), daemon=True) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            report(queue.done(work.jobs), work.total)
            if (error := queue.error_since(start)) is not None:
                raise InputError(error)
            time.sleep(_POLL)
    finally:
        for process in processes:
            process.terminate()
    error = queue.error_since(start)
    if error is not None or queue.done(work.jobs) < work.total:
        raise InputError(error or "every worker died", remedy="the same command goes on where this one stopped")


def worker(work: Work) -> None:
    """One worker process. What goes wrong stands in the study."""
    with contextlib.suppress(InputError, KeyboardInterrupt), work.queue() as queue:
        _work(queue, work, lambda done, total: None)
