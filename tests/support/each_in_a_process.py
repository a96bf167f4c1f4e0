"""Runs Python files, each in a process of its own that may die; torch is imported once, before they part.

``python each_in_a_process.py RESULTS FILE...`` writes to RESULTS, as JSON, what became of each: its exit status
(negative: the signal that killed it) and what it printed.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import timm  # noqa: F401  not once for each file
import torch
import torchvision  # noqa: F401

import sesurgery  # noqa: F401

SECONDS = 120


def results(files: list[str]) -> dict[str, tuple[int, str]]:
    """The exit status and the output of each file, two at a time."""
    running: dict[int, tuple[str, Path]] = {}
    ended: dict[str, tuple[int, str]] = {}

    def wait() -> None:
        pid, status = os.wait()
        file, printed = running.pop(pid)
        ended[file] = os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")

    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            if len(running) == 2:
                wait()
            printed = Path(folder) / f"{Path(file).stem}.txt"
            pid = os.fork()
            if not pid:
                _run(file, printed)
            running[pid] = file, printed
        while running:
            wait()
    return ended


def _run(file: str, printed: Path) -> None:
    """The forked process. Never returns."""
    descriptor = os.open(printed, os.O_CREAT | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.alarm(SECONDS)
    sys.argv = [file]
    status = 0
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(json.dumps(results(sys.argv[2:])))
