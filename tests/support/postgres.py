"""A PostgreSQL server for tests: in a folder of its own, started and stopped here, by whichever user runs the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def server(databases: int = 1) -> Iterator[str]:
    """The URL of so many empty databases, with ``{}`` where the number of one goes."""
    import pgserver
    import psycopg

    with tempfile.TemporaryDirectory() as folder:
        base = pgserver.get_server(folder, cleanup_mode=None).get_uri()
        process = int((Path(folder) / "postmaster.pid").read_text().split()[0])
        try:
            with psycopg.connect(base, autocommit=True) as connection:
                for number in range(databases):
                    connection.execute(f"CREATE DATABASE study{number}")
            yield base.replace("postgresql://", "postgresql+psycopg://", 1).replace("/postgres?", "/study{}?", 1)
        finally:
            os.kill(process, signal.SIGQUIT)  # at once: pg_ctl waits for a process that only its parent can bury
            time.sleep(1)
