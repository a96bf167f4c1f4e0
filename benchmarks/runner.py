"""Examines many models in several processes: resumable, one JSON line a result, and a process may die over a model."""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_BATCH = 100  # models for one process, so that what libraries keep does not pile up


@dataclass(frozen=True)
class Runner:
    """What to do with each model, and where the results lie.

    Attributes:
        examine: the rows of one model; importable, for it runs in other processes.
        results: a file with one JSON row a line, each with a ``model``.
        key: what tells rows apart; a later one takes the place of an earlier.
        alone: each model has a process of its own.
    """

    examine: Callable[[str], list[Row]]
    results: Path
    key: tuple[str, ...] = ("model",)
    alone: bool = False

    def rows(self) -> list[Row]:
        """The results so far."""
        found: dict[tuple[str, ...], Row] = {}
        if self.results.exists():
            for line in self.results.read_text().splitlines():
                row = json.loads(line)
                found[tuple(row[name] for name in self.key)] = row
        return [found[name] for name in sorted(found)]

    def run(self, wanted: Sequence[str], workers: int) -> None:
        """Examine the models that have no result yet, showing how far it is."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        done = {row["model"] for row in self.rows() if "crash" not in row}
        waiting = [name for name in wanted if name not in done]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with self.results.open("a") as sink, Progress(*columns) as bar:
            task = bar.add_task("models", total=len(waiting))
            for name, rows in _results(self, waiting, workers):
                sink.writelines(json.dumps(row) + "\n" for row in rows)
                sink.flush()
                bar.update(task, advance=1, description=f"{name:<50.50}")


def _results(runner: Runner, names: list[str], workers: int) -> Iterator[tuple[str, list[Row]]]:
    """As they come. Where a process dies, those that were under way are tried again, each in a process of its own."""
    waiting = dict.fromkeys(names)
    while waiting:
        try:
            for name, rows in _pooled(runner, list(waiting)[: _BATCH * workers], workers):
                del waiting[name]
                yield name, rows
        except BrokenProcessPool:
            for name in list(waiting)[: 2 * workers]:
                del waiting[name]
                try:
                    yield from _pooled(runner, [name], 1)
                except BrokenProcessPool:
                    yield name, [{"model": name, "crash": "the process died", "recipe": ""}]


def _pooled(runner: Runner, names: list[str], workers: int) -> Iterator[tuple[str, list[Row]]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, quiet, max_tasks_per_child=1 if runner.alone else None) as pool:
        futures = {pool.submit(runner.examine, name): name for name in names}
        for future in as_completed(futures):
            yield futures[future], future.result()


def quiet() -> None:
    """One thread a process, and no warnings of the libraries."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main(runner: Runner, names: Callable[[], list[str]], write: Callable[[list[Row]], str], about: str | None) -> None:
    """The command line of such a script; ``write`` makes the page of the rows and returns what to print."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="*", help="glob over references, such as 'timm:resnet*'")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--fresh", action="store_true", help="throw the results away first")
    parser.add_argument("--report", action="store_true", help="only write the page from the results there are")
    options = parser.parse_args()
    quiet()
    if options.fresh:
        runner.results.unlink(missing_ok=True)
    if not options.report:
        runner.run([name for name in names() if fnmatch.fnmatch(name, options.filter)], options.workers)
    print(write(runner.rows()))
