"""How a command ends: exit codes and one-line errors in place of tracebacks."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from typing import Any, NoReturn

import typer

from sesurgery.errors import SurgeryError
from sesurgery.terminal.help import Group
from sesurgery.terminal.spelling import on_the_command_line
from sesurgery.words.text import one_line

INTERRUPTED = 130


class Guarded(Group):
    """A command group that turns every exception into one message on stderr and an exit code.

    0 done, 2 bad input, 3 a recipe that matched nothing, 1 anything else, 130 interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name or a diff may hold what the encoding lacks
                stream.reconfigure(errors="replace")
        sys.exit(self._code(*args, **{**kwargs, "standalone_mode": False}))

    def _code(self, *args: Any, **kwargs: Any) -> int:
        if sys.stdout is None:  # sesurgery recipes >&-
            say("error: stdout is closed")
            return 1
        try:
            result = super().main(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            _forget_stdout()
            return 1
        except (KeyboardInterrupt, typer.Abort):
            result = INTERRUPTED
        except Exception as error:
            return report(error)
        if result == INTERRUPTED:
            say("interrupted")
        return result if isinstance(result, int) else 0


def report(error: Exception) -> int:
    """Print ``error`` as people should see it and return the exit code it stands for."""
    if os.environ.get("SESURGERY_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, SurgeryError):
        say("error: " + on_the_command_line(error).replace("\n", "\n       "))
        return error.exit_code
    usage = getattr(error, "format_message", None)
    if usage is not None:
        say(f"error: {usage()}", *_usage_hint(error))
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.filename is not None:
        say(f"error: {error.filename}: {error.strerror}")
        return 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
        _forget_stdout()
        say(f"error: the output cannot be written: {error.strerror}")
        return 1
    say(f"internal error: {type(error).__name__}: {one_line(error, 2000)}", "set SESURGERY_DEBUG=1 for the traceback")
    return 1


def say(*lines: str) -> None:
    """Print lines on stderr; a closed stderr is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(*lines, sep="\n", file=sys.stderr)


def _usage_hint(error: Exception) -> list[str]:
    context = getattr(error, "ctx", None)
    return [f"try: {context.command_path} --help"] if context is not None else []


def _forget_stdout() -> None:
    """Python flushes stdout once more as it ends; let that go nowhere instead of failing aloud."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
