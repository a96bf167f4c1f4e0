"""Locks that are free again when the process that held them dies: in a folder, or in a database server."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import FileLock, Timeout


class Locks(Protocol):
    """Locks by name, shared by all workers of a study."""

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock; wait for it."""
        ...

    def hold(self, name: str) -> None:
        """Hold a lock for the rest of this process."""
        ...

    def held(self, name: str) -> bool:
        """Whether some process holds it."""
        ...

    def free(self) -> None:
        """Let go of all that this process holds."""
        ...


class FolderLocks:
    """Files that the operating system locks; it frees those of a process that was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mine: dict[str, FileLock] = {}

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f"{name}.lock")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self._lock(name):
            yield

    def hold(self, name: str) -> None:
        self._mine[name] = self._lock(name)
        self._mine[name].acquire()

    def held(self, name: str) -> bool:
        if name in self._mine:
            return True
        try:
            with self._lock(name).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def free(self) -> None:
        for lock in self._mine.values():
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        self._mine.clear()


class ServerLocks:
    """Advisory locks of PostgreSQL or MySQL: they belong to a connection and go with it."""

    _TAKE: ClassVar = {"postgresql": "SELECT pg_advisory_lock(:key)", "mysql": "SELECT GET_LOCK(:key, -1)"}
    _TRY: ClassVar = {"postgresql": "SELECT pg_try_advisory_lock(:key)", "mysql": "SELECT GET_LOCK(:key, 0)"}
    _FREE: ClassVar = {"postgresql": "SELECT pg_advisory_unlock(:key)", "mysql": "SELECT RELEASE_LOCK(:key)"}

    def __init__(self, url: str) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        self._engine: Any = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self.dialect = str(self._engine.dialect.name).replace("mariadb", "mysql")
        self._mine: dict[str, Any] = {}

    def _key(self, name: str) -> int | str:
        number = int.from_bytes(hashlib.sha256(f"sesurgery {name}".encode()).digest()[:8], "big", signed=True)
        return number if self.dialect == "postgresql" else f"sesurgery{number}"

    def _ask(self, connection: Any, sql: dict[str, str], name: str) -> bool:
        from sqlalchemy import text

        return bool(connection.execute(text(sql[self.dialect]), {"key": self._key(name)}).scalar())

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self._engine.connect() as connection:
            self._ask(connection, self._TAKE, name)
            try:
                yield
            finally:
                self._ask(connection, self._FREE, name)

    def hold(self, name: str) -> None:
        self._mine[name] = self._engine.connect()
        self._ask(self._mine[name], self._TAKE, name)

    def held(self, name: str) -> bool:
        if name in self._mine:
            return True
        with self._engine.connect() as connection:
            free = self._ask(connection, self._TRY, name)
            if free:
                self._ask(connection, self._FREE, name)
        return not free

    def free(self) -> None:
        for connection in self._mine.values():
            connection.close()
        self._mine.clear()


class JournalLock:
    """For Optuna's journal: its own locks wait half a minute for a process that was killed."""

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / "journal.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()
