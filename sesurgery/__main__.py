"""``python -m sesurgery``, and the command ``sesurgery``."""

from __future__ import annotations

import atexit
import os
import sys
import threading

from sesurgery.cli.app import main


def run() -> None:
    """Run the command and leave at once: what torch takes apart at the end of a process takes up to two seconds."""
    try:
        main()
    except SystemExit as end:
        if "torch" not in sys.modules or not isinstance(end.code, int):
            raise
        _leave(end.code)


def _leave(code: int) -> None:
    """All that Python does at the end of a process for others: threads, functions that asked for it, open files."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 1
    os._exit(code)


if __name__ == "__main__":
    run()
