"""A study of jobs: claimed by workers one at a time, and claimed again where a worker was killed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from sesurgery.errors import InputError
from sesurgery.trials.locks import FolderLocks, JournalLock, Locks, ServerLocks
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
    """

    key: str
    name: str
    params: Mapping[str, Any]
    seed: int


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
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._worker = f"worker-{uuid.uuid4().hex}"
        self._choices: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(list(values)) for name, values in choices.items()
        }
        self._locks, where = _locks(folder, storage), storage or str(folder)
        try:
            self._locks.hold(self._worker)
            with self._locks.locked("claim"):
                self.study: optuna.Study = optuna.create_study(
                    storage=_storage(folder, storage),
                    study_name=NAME,
                    load_if_exists=True,
                    direction="minimize" if smaller else "maximize",
                    pruner=pruner or optuna.pruners.NopPruner(),
                )
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
        """A job for this worker; None where all have ended or are under way elsewhere (see :meth:`finished`)."""
        wanted = {job.id: job for job in jobs}
        with self._locks.locked("claim"):
            trials = self._mended(wanted)
            if not any(trial.state == TrialState.WAITING for trial in trials):
                return None
            trial = self.study.ask(self._choices)
            trial.set_user_attr("worker", self._worker)
            return trial, wanted[trial.user_attrs["job"]]

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
                about = {"job": job.id, "key": job.key, "name": job.name, "seed": job.seed}
                self.study.enqueue_trial(dict(job.params), user_attrs=about)
        return self.study.get_trials(deepcopy=False)

    def end(self, trial: Trial, values: Mapping[str, float], aim: str) -> None:
        """A job has its results."""
        self._tell(trial, values[aim], None, values=dict(values))

    def prune(self, trial: Trial) -> None:
        """A job was stopped early."""
        self._tell(trial, None, TrialState.PRUNED)

    def fail(self, trial: Trial, why: str) -> None:
        """A job went wrong; whoever runs the study again tries it again."""
        self._tell(trial, None, TrialState.FAIL, error=why)

    def _tell(self, trial: Trial, value: float | None, state: TrialState | None, **about: Any) -> None:
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


def _locks(folder: Path, storage: str | None) -> Locks:
    if storage is None or storage.startswith("sqlite"):
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / "workers"
        beside.mkdir(exist_ok=True)
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
