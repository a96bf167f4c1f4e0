"""The files of an artefact on disk: written so that a folder holds the whole old or the whole new one at every instant.

A first save builds a folder beside the place and renames it there. A save over an artefact works inside its folder:

1. ``model.safetensors.new`` and ``removed.safetensors.new`` are written, then ``surgery.json.tmp``.
2. ``surgery.json.tmp`` becomes ``surgery.json.new``: from here on the new artefact counts.
3. The ``.new`` files take their places, ``surgery.json`` last.

A record names its weights by digest. A reader takes ``surgery.json.new`` where there is one, finds each file of it by
content under either name, and falls back to ``surgery.json``. The next save finishes or sweeps away what a killed one
left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from sesurgery.artifact.names import NAMES, NEW, RECORD, TEMPORARY, Role
from sesurgery.artifact.record import MAX_BYTES, Record, WeightsFile, parse
from sesurgery.artifact.safetensors_writer import write_tensors
from sesurgery.errors import ArtifactError
from sesurgery.words.text import one_line

_SAVE_AGAIN = "save the operation again, or take the folder from a backup"

# Makes the record from what was written.
Describe = Callable[[dict[Role, WeightsFile]], bytes]


class ChangedError(ArtifactError):
    """A folder that changed while it was read."""


def write_new(folder: Path, tensors: Mapping[Role, Mapping[str, Tensor]], describe: Describe, record: str) -> None:
    """Write a folder that does not exist yet: all of it or nothing."""
    new_folders = [place for place in folder.absolute().parents if not place.exists()]
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    _sweep_beside(folder)
    temporary = folder.absolute().parent / f"{_prefix(folder)}{secrets.token_hex(6)}"
    try:
        temporary.mkdir()
        with locked(temporary):
            _write_files(temporary, tensors, describe, record, "", "")
            sync_folder(temporary)
            if folder.is_dir():  # an empty one; not every system renames over it
                folder.rmdir()
            os.rename(temporary, folder)
            sync_folder(folder.absolute().parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for place in new_folders:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def write_over(folder: Path, tensors: Mapping[Role, Mapping[str, Tensor]], describe: Describe) -> None:
    """Replace the artefact in ``folder``, or fill an empty folder; see the head of this file."""
    with locked(folder):
        recover(folder)
        try:
            _write_files(folder, tensors, describe, RECORD, NEW, TEMPORARY)
            os.replace(folder / (RECORD + TEMPORARY), folder / (RECORD + NEW))
        except BaseException:
            if not (folder / (RECORD + NEW)).exists():
                _sweep(folder)
            raise
        try:
            sync_folder(folder)
            _take_places(folder, {role: folder / (NAMES[role] + NEW) for role in tensors})
        except OSError as error:
            problem = f"is saved and loads, but its files could not take their places ({error.strerror or error})"
            raise ArtifactError(problem, where=str(folder), remedy="save once more to tidy up") from error


def recover(folder: Path) -> None:
    """Finish a save that was cut off after its commit, and sweep away one that was cut off before."""
    fresh = folder / (RECORD + NEW)
    if fresh.is_file():
        with contextlib.suppress(ArtifactError):
            _take_places(folder, locate(folder, parse(read_small(fresh), str(fresh))))
    _sweep(folder)


def candidates(folder: Path) -> Iterator[Path]:
    """The records of a folder, in the order in which they count."""
    yield from (path for name in (RECORD + NEW, RECORD) if (path := folder / name).is_file())


def locate(folder: Path, record: Record) -> dict[Role, Path]:
    """The files of a record, by content. Raises ``ArtifactError`` where one is missing or differs."""
    return {role: _matching(folder, NAMES[role], wanted) for role, wanted in record.weights.items()}


def read_small(path: Path) -> bytes:
    """The bytes of a record, which is never large."""
    try:
        if not path.is_file():
            raise ArtifactError("is no file", where=str(path), remedy=_SAVE_AGAIN)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"is larger than {MAX_BYTES >> 20} MiB", where=str(path), remedy=_SAVE_AGAIN)
    return data


def read_tensors(path: Path, wanted: WeightsFile) -> dict[str, Tensor]:
    """The tensors of a file whose content was checked; raises ``ChangedError`` where it was exchanged meanwhile."""
    from safetensors.torch import load_file

    try:
        before = path.stat()
        if file_facts(path) != wanted:
            raise ChangedError("changed while it was read", where=str(path), remedy="load it again")
        tensors = load_file(path)
        after = path.stat()
    except (OSError, ArtifactError):
        raise
    except Exception as error:
        problem = f"is no safetensors file ({one_line(error)})"
        raise ArtifactError(problem, where=str(path), remedy=_SAVE_AGAIN) from error
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        raise ChangedError("changed while it was read", where=str(path), remedy="load it again")
    return tensors


def file_facts(path: Path) -> WeightsFile:
    """Size and digest of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return WeightsFile(size=size, sha256=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` lasting, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Keep other saves out of ``folder``; the lock goes with the process. Yields whether it was had."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            has_lock = True
        except OSError:
            has_lock = False
        yield has_lock
    finally:
        os.close(handle)


def _write_files(
    folder: Path,
    tensors: Mapping[Role, Mapping[str, Tensor]],
    describe: Describe,
    record: str,
    suffix: str,
    record_suffix: str,
) -> None:
    written: dict[Role, WeightsFile] = {}
    for role, named in tensors.items():
        size, digest = write_tensors(folder / (NAMES[role] + suffix), named)
        written[role] = WeightsFile(size=size, sha256=digest)
    with (folder / (record + record_suffix)).open("xb") as file:
        file.write(describe(written))
        file.flush()
        os.fsync(file.fileno())


def _take_places(folder: Path, files: Mapping[Role, Path]) -> None:
    for role, path in files.items():
        if path.name != NAMES[role]:
            os.replace(path, folder / NAMES[role])
    os.replace(folder / (RECORD + NEW), folder / RECORD)
    for role, name in NAMES.items():
        if role not in files:
            (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def _matching(folder: Path, name: str, wanted: WeightsFile) -> Path:
    problem = "is missing"
    for path in (folder / name, folder / (name + NEW)):
        if not path.is_file():
            continue
        size = path.stat().st_size
        if size != wanted.size:
            kind = "truncated" if size < wanted.size else "not the file that was saved"
            problem = f"is {kind}: {size} bytes, not {wanted.size}" if path.name == name else problem
        elif file_facts(path) == wanted:
            return path
        else:
            problem = "is not the file that was saved: its content has changed" if path.name == name else problem
    raise ArtifactError(problem, where=str(folder / name), remedy=_SAVE_AGAIN)


def _sweep(folder: Path) -> None:
    for name in (RECORD, *NAMES.values()):
        for suffix in (NEW, TEMPORARY):
            (folder / (name + suffix)).unlink(missing_ok=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.sesurgery-"


def _sweep_beside(folder: Path) -> None:
    """Remove what killed first saves left beside the place; one that is at work holds its lock."""
    for path in folder.absolute().parent.iterdir():
        if path.name.startswith(_prefix(folder)) and path.is_dir() and not path.is_symlink():
            with locked(path, wait=False) as has_lock:
                if has_lock:
                    shutil.rmtree(path, ignore_errors=True)
