"""The names of an artefact's files. Imports no torch, so that the command line can look before it works."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from sesurgery.errors import ArtifactError

Role = Literal["model", "removed"]
RECORD = "surgery.json"
NAMES: dict[Role, str] = {"model": "model.safetensors", "removed": "removed.safetensors"}
NEW = ".new"
TEMPORARY = ".tmp"
NEW_FOLDER = "name a new or empty folder"
_LEFTOVERS = {RECORD + TEMPORARY, *(name + NEW for name in NAMES.values())}


def is_ours(folder: Path) -> bool:
    """Whether a folder holds an artefact, or nothing but what a save that was killed left there."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {RECORD, RECORD + NEW}) or names <= _LEFTOVERS


def holds_model(model: str) -> bool:
    """Whether ``model`` is the folder of an operated model; a folder that happens to have a model's name is none."""
    folder = Path(model)
    return (
        bool(model.strip())
        and folder.is_dir()
        and (not re.fullmatch(r"[\w.-]+", model) or any(folder.glob(f"{RECORD}*")))
    )


def check_target(folder: Path, where: str, instead: str | None) -> None:
    """Raise ``ArtifactError`` where an artefact cannot be written to ``folder``, before any work is done for it.

    Args:
        where: how the message calls the folder.
        instead: what to do where an artefact is there already; None where that is to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError("is a file", where=where, remedy="name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not is_ours(folder):
            raise ArtifactError("the folder holds other files", where=where, remedy=NEW_FOLDER)
        if instead is not None:
            raise ArtifactError("an artefact is there already", where=where, remedy=instead)
    near = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not near.is_dir():
        raise ArtifactError(f"{near} is a file", where=where, remedy="name a folder")
    if not os.access(near, os.W_OK | os.X_OK):
        raise ArtifactError(f"{near} may not be written to", where=where, remedy="choose a folder that is yours")
