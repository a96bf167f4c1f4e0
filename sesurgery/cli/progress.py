"""Progress on stderr, for people who watch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[str, int, int], None]
_PERIOD = 24 * 3600  # seconds that the time left is estimated from: a training may take hours


@contextmanager
def progress() -> Iterator[Step]:
    """Yield ``step(text, done, total)``; it draws a line on stderr where that is a terminal and nothing elsewhere.

    ``total`` 0 means that nobody knows how much is left.
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, speed_estimate_period=_PERIOD) as bar:
        task, latest = bar.add_task("loading torch", total=None), ""

        def step(text: str, done: int, total: int) -> None:
            nonlocal latest
            if text != latest:  # what another step took says nothing about this one
                bar.reset(task)
                latest = text
            bar.update(task, description=text, completed=done, total=total or None)

        yield step


def _silent(_text: str, _done: int, _total: int) -> None:
    pass
