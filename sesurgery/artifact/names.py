"""The names of an artefact's files. Imports no torch, so that the command line can look before it works."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Role = Literal["model", "removed"]
RECORD = "surgery.json"
NAMES: dict[Role, str] = {"model": "model.safetensors", "removed": "removed.safetensors"}
NEW = ".new"
TEMPORARY = ".tmp"
_LEFTOVERS = {RECORD + TEMPORARY, *(name + NEW for name in NAMES.values())}


def is_ours(folder: Path) -> bool:
    """Whether a folder holds an artefact, or nothing but what a save that was killed left there."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {RECORD, RECORD + NEW}) or names <= _LEFTOVERS
