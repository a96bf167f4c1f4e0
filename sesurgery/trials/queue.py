"""A study of jobs: claimed by workers one at a time, and claimed again where a worker was killed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from sesurgery.errors import InputError
from sesurgery.trials.locks import FolderLocks, JournalLock, Locks, ServerLocks
from sesurgery.trials.samplers import EVERY, Sampling
from sesurgery.words.text import reason

NAME = "sesurgery"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class _Identified:
    """A training is known by its candidate's key and its seed."""

    key: str
    seed: int

    @property
    def id(self) -> str:
        return f"{self.key}#{self.seed}"


@dataclass(frozen=True)
class Job(_Identified):
    """One training: which candidate, with which seed.

    Attributes:
        key: what tells candidates apart (a digest of what is done to the model).
        name: what a person calls it.
        params: its coordinates in the grid, for Optuna's tables and pictures.
        costs: parameters and MACs.
        always: whether it is trained whatever a sampler chooses.
    """

    key: str
    name: str
    params: Mapping[str, Any]
    seed: int
    costs: tuple[float, float] = (0.0, 0.0)
    always: bool = False


@dataclass(frozen=True)
class Ended(_Identified):
    """A job that ended. ``values`` are its results by name; it was stopped early where ``pruned``."""

    key: str
    seed: int
    values: Mapping[str, float]
    pruned: bool


class Queue:
    """Jobs in an Optuna study.

    Each worker holds a lock for as long as it lives. Jobs are claimed under one lock, where those of dead workers are
    failed and queued again: so every job ends exactly once, whatever is killed when.

    Args:
        folder: where the journal lies, if no ``storage`` is given.
        storage: an Optuna URL, such as ``postgresql://…``; workers on other machines use the same.
        question: what the study is about; a study of another question is refused.
        choices: the values of each parameter.
        smaller: whether smaller results are better.
        pruner: stops hopeless jobs early.
        sampling: which candidates are trained; left out, all.

    Raises:
        InputError: the storage is not there, or holds a study of another question.
    """

    def __init__(
        self,
        folder: Path,
        storage: str | None,
        question: str,
        choices: Mapping[str, Sequence[Any]],
        smaller: bool = False,
        pruner: optuna.pruners.BasePruner | None = None,
        sampling: Sampling = EVERY,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._worker = f"worker-{uuid.uuid4().hex}"
        self._choices: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(list(values)) for name, values in choices.items()
        }
        self._sampling = sampling
        aim = StudyDirection.MINIMIZE if smaller else StudyDirection.MAXIMIZE
        self._locks, where = _locks(folder, storage), storage or str(folder)
        try:
            self._locks.hold(self._worker)
            with self._locks.locked("claim"):
                self.study: optuna.Study = optuna.create_study(
                    storage=_storage(folder, storage),
                    study_name=NAME,
                    load_if_exists=True,
                    directions=[aim, *([StudyDirection.MINIMIZE] * 2 if sampling.several else [])],
                    pruner=pruner or optuna.pruners.NopPruner(),
                )
                self.study.sampler = sampling.sampler(len(self.study.get_trials(deepcopy=False)))
                asked = self.study.user_attrs.get("question")
                if asked is None:
                    self.study.set_user_attr("question", question)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the storage cannot be used: {reason(error)}", where=where) from error
        if asked not in (None, question):
            remedy = "ask the same question as then, or give another folder (or another database, storage=...)"
            raise InputError("it holds a comparison of something else", where=where, remedy=remedy)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *raised: object) -> None:
        self._locks.free()

    def claim(self, jobs: Sequence[Job]) -> tuple[Trial, Job] | None:
        """A job for this worker; None where all have ended or are under way elsewhere (see :meth:`ended`)."""
        with self._locks.locked("claim"):
            chosen = self._chosen(jobs)
            trials = self._mended({job.id: job for job in jobs if job.key in chosen})
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            trial = self.study.ask(self._choices) if waiting else self._proposed(jobs, chosen)
            if trial is None:
                return None
            trial.set_user_attr("worker", self._worker)
            return trial, next(job for job in jobs if job.id == trial.user_attrs["job"])

    def _chosen(self, jobs: Sequence[Job]) -> set[str]:
        """The keys of the candidates that are trained, so far."""
        if self._sampling.most is None:
            return {job.key for job in jobs}
        known = {trial.user_attrs.get("key") for trial in self.study.get_trials(deepcopy=False)}
        return {job.key for job in jobs if job.always or job.key in known}

    def _proposed(self, jobs: Sequence[Job], chosen: set[str]) -> Trial | None:
        """The first job of a candidate that the sampler chooses; None where enough are chosen."""
        free: dict[Any, Job] = {}
        for job in jobs:
            if job.key not in chosen:
                free.setdefault(frozenset(job.params.items()), job)
        sampled = chosen - {job.key for job in jobs if job.always}
        if not free or len(sampled) >= (self._sampling.most or 0):
            return None
        trial = self.study.ask(self._choices)
        job = free.get(frozenset(trial.params.items()))
        if job is not None:
            for name, value in _about(job).items():
                trial.set_user_attr(name, value)
            return trial
        # No such candidate, or one that is trained already: the one that has most in common with it.
        self.study.tell(trial, state=TrialState.FAIL)
        order = random.Random(trial.number).sample(list(free), len(free))
        self._enqueue(free[max(order, key=lambda params: len(params & trial.params.items()))])
        return self.study.ask(self._choices)

    def _enqueue(self, job: Job) -> None:
        self.study.enqueue_trial(dict(job.params), user_attrs=_about(job))

    def _mended(self, wanted: Mapping[str, Job]) -> list[FrozenTrial]:
        """All trials, when those of dead workers have been failed and every job that is in none is queued."""
        lively: set[str] = set()
        for trial in self.study.get_trials(deepcopy=False):
            worker = trial.user_attrs.get("worker")
            if trial.state == TrialState.RUNNING and (worker is None or not self._locks.held(worker)):
                self.study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state != TrialState.FAIL:
                lively.add(trial.user_attrs["job"])
        for job in wanted.values():
            if job.id not in lively:
                self._enqueue(job)
        return self.study.get_trials(deepcopy=False)

    def end(self, trial: Trial, values: Mapping[str, float], aim: str) -> None:
        """A job has its results."""
        more = trial.user_attrs["costs"] if self._sampling.several else ()
        self._tell(trial, [values[aim], *more], None, values=dict(values))

    def prune(self, trial: Trial) -> None:
        """A job was stopped early."""
        self._tell(trial, None, TrialState.PRUNED)

    def fail(self, trial: Trial, why: str) -> None:
        """A job went wrong; whoever runs the study again tries it again."""
        self._tell(trial, None, TrialState.FAIL, error=why)

    def _tell(self, trial: Trial, value: list[float] | None, state: TrialState | None, **about: Any) -> None:
        with self._locks.locked("claim"):
            # Where the connection of this worker broke, another one has taken the job over.
            if self.study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                for name, item in about.items():
                    trial.set_user_attr(name, item)
                self.study.tell(trial, value, state=state)

    def ended(self) -> list[Ended]:
        """Every job that has ended."""
        return [
            Ended(
                trial.user_attrs["key"],
                trial.user_attrs["seed"],
                trial.user_attrs.get("values", {}),
                trial.state == TrialState.PRUNED,
            )
            for trial in self.study.get_trials(deepcopy=False, states=_ENDED)
        ]

    def done(self, jobs: Sequence[Job]) -> int:
        """How many of the jobs have ended."""
        return len({job.id for job in jobs} & {one.id for one in self.ended()})

    def error_since(self, start: int) -> str | None:
        """What went wrong in the trials from the ``start``-th on."""
        errors = (trial.user_attrs.get("error") for trial in self.study.get_trials(deepcopy=False)[start:])
        return next(filter(None, errors), None)


def _about(job: Job) -> dict[str, Any]:
    return {"job": job.id, "key": job.key, "name": job.name, "seed": job.seed, "costs": list(job.costs)}


def _locks(folder: Path, storage: str | None) -> Locks:
    if storage is None or storage.startswith("sqlite"):
        beside = folder / "workers"
        try:
            beside.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"no folder can be made there: {error.strerror}", where=str(folder)) from error
        return FolderLocks(beside)
    if not storage.startswith(("postgresql", "mysql", "mariadb")):
        remedy = "postgresql://…, mysql://… or sqlite:///…, or leave it out: the folder then holds a journal"
        raise InputError("no storage that several workers can share safely", where=storage, remedy=remedy)
    try:
        return ServerLocks(storage)
    except Exception as error:
        raise InputError(f"the storage cannot be used: {reason(error)}", where=storage) from error


def _storage(folder: Path, storage: str | None) -> Any:
    if storage is not None:
        from optuna.storages import RDBStorage
        from sqlalchemy.pool import NullPool

        return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})  # no connection outlives its use
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = JournalLock(folder)
    return JournalStorage(JournalFileBackend(str(folder / "journal.log"), lock_obj=lock))
