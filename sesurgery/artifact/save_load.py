"""An operated model as a folder: saved, loaded and reverted without running any code from it.

The folder holds ``model.safetensors`` (the state_dict), ``surgery.json`` (base model, plans, versions, digests) and,
where operations took modules away, ``removed.safetensors`` (their weights, for ``revert``).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.api import Surgery
from sesurgery.artifact import folder as files
from sesurgery.artifact.delta import base_state, without_base
from sesurgery.artifact.names import NEW_FOLDER, RECORD, Role, check_target
from sesurgery.artifact.needs import done_to
from sesurgery.artifact.record import Base, Record, parse
from sesurgery.artifact.replay import Artifact, rebuilt, versions
from sesurgery.artifact.tensors import collect, expand, reverted
from sesurgery.errors import ArtifactError, InputError
from sesurgery.models.input_spec import rebuild
from sesurgery.models.weightless import to_meta
from sesurgery.operating.backup import MODEL_MARK, changes_of, without_history
from sesurgery.words.text import listed

__all__ = ["Artifact", "load", "read", "revert_folder", "save"]

REVERTED = "base.json"
_LOG = logging.getLogger("sesurgery")
_TRIES = 3


def save(
    operated: Surgery | nn.Module,
    folder: str | Path,
    *,
    overwrite: bool | None = None,
    delta: bool | nn.Module | str | Path = False,
) -> None:
    """Write an operated model to ``folder``, atomically: a save that is cut off leaves an old artefact whole.

    Args:
        operated: what ``apply`` returned, or its model, trained further or not.
        folder: a new or empty folder, or one that holds an artefact, which is replaced.
        overwrite: False refuses to replace an artefact.
        delta: store only what is new or changed against the model as it was: that model, a checkpoint of it, or True
            where ``apply`` was told its weights (``pretrained=True``, ``weights=...``). ``load`` asks for it again.

    Raises:
        InputError: it is not known what the model was before.
        ArtifactError: the folder cannot take it, or the model cannot be stored; nothing has changed then.
    """
    model = operated.model if isinstance(operated, Surgery) else operated
    place = Path(folder)
    check_target(place, str(place), None if overwrite is not False else "overwrite=True replaces it")
    history = _history(model)
    check_changes(model, history)
    weights, kept = collect(model), None
    if delta is not False:
        weights, kept = without_base(weights, base_state(model, delta))
    tensors: dict[Role, dict[str, Tensor]] = {"model": weights.model}
    if weights.removed:
        tensors["removed"] = weights.removed
    done = done_to(history)
    record = partial(
        Record,
        format="sesurgery",
        version=1,
        base=_base(history.get("base")),
        operations=done.operations,
        needs=done.needs,
        aliases=weights.aliases,
        exchanged=list(weights.exchanged),
        buffers=weights.buffers,
        delta=kept,
        training=model.training,
        versions=versions(),
    )
    _write(place, tensors, lambda written: record(weights=written).to_bytes(), RECORD)
    _LOG.info("saved in %s", place)


def read(folder: str | Path) -> Artifact:
    """Read and check an artefact, without building a model.

    Raises:
        ArtifactError: it is none, is damaged, or is not what it says it is.
    """
    place = Path(folder)
    if not place.is_dir():
        problem = "is a file, not the folder of an artefact" if place.exists() else "no such folder"
        raise ArtifactError(problem, where=str(place), remedy=_FOLDER)
    for attempt in range(_TRIES):
        stamp = _stamp(place)
        try:
            return _read(place)
        except (ArtifactError, OSError) as error:
            # Somebody may be saving over it at this moment: then what there is now is another artefact.
            if attempt < _TRIES - 1 and (isinstance(error, files.ChangedError) or stamp != _stamp(place)):
                continue
            if isinstance(error, OSError):
                raise ArtifactError(f"cannot be read: {error.strerror or error}", where=str(place)) from error
            raise
    raise AssertionError("the last attempt returns or raises")


def load(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    example_input: Any = None,
    trust_code: bool = False,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Rebuild an operated model: its base without weights, each operation again, then the saved weights.

    Args:
        folder: what ``save`` wrote.
        model: a fresh instance of the network, to be changed in place; needed where that was not made by name.
        weights: of a delta, a checkpoint of the base; its library's own are taken by themselves.
        example_input: where the saved one could not be written down.
        trust_code: let the user's own factory that the artefact names be imported and called.
        device: where the model goes in the end; by default it stays where ``model`` lies, else on the CPU.

    Returns:
        The operated model, in the mode and dtypes in which it was saved; ``revert`` works on it.

    Raises:
        ArtifactError: the folder is damaged, asks for code that is not trusted, or does not fit the model.
    """
    if model is not None and MODEL_MARK in model.__dict__:
        raise InputError("was operated already", where="model", remedy="give a fresh instance, or revert it first")
    if model is not None and any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("is on meta, which holds no weights", where="model", remedy='create it with device="cpu"')
    artifact = read(folder)
    if weights is not None and artifact.record.delta is None:
        raise InputError("are not needed: the folder holds all of its own", where="weights", remedy="leave them out")
    body = rebuilt(artifact, model, weights, example_input, trust_code)
    _LOG.info("loaded from %s", folder)
    if device is None:
        return body
    return to_meta(body) if torch.device(device).type == "meta" else body.to(device)


def input_of(model: nn.Module) -> Any:
    """The input, on ``meta``, that an operated model was last looked at with; None where it was not written down."""
    described = model.__dict__[MODEL_MARK]["inputs"][-1]
    return None if described is None else rebuild(described)


def revert_folder(folder: str | Path, output: str | Path) -> Path:
    """Write the model without its operations to ``output``: ``model.safetensors`` and what made it, ``base.json``.

    Works on the stored tensors alone; no model is built and no code is run. Returns the output folder.

    Raises:
        ArtifactError: ``folder`` is no sound artefact, or ``output`` cannot be written.
    """
    artifact = read(folder)
    if artifact.record.delta is not None:
        problem, remedy = "is a delta, which does not hold its base", "the model without the operation is that base"
        raise ArtifactError(problem, where=artifact.where, remedy=remedy)
    place = Path(output)
    if place.is_dir() and any(place.iterdir()):
        raise ArtifactError("holds files already", where=str(place), remedy=NEW_FOLDER)
    check_target(place, str(place), None)
    state = reverted(artifact.model, artifact.removed, artifact.record.exchanged)
    base = artifact.record.base
    said = {"format": "sesurgery base", "base": base.model_dump() if base else None, "versions": versions()}
    text = (json.dumps(said, indent=1) + "\n").encode()
    if place.is_dir():
        guarded(place, place.rmdir)
    plain = {key: tensor.clone() for key, tensor in state.items()}
    guarded(place, lambda: files.write_new(place, {"model": plain}, lambda _: text, REVERTED))
    return place


_FOLDER = "name a folder that sesurgery.save or sesurgery apply -o wrote"


def _read(place: Path) -> Artifact:
    problem: ArtifactError | None = None
    for path in files.candidates(place):
        try:
            record = parse(files.read_small(path), str(path))
            plans = tuple(record.plans(str(path)))
            tensors: dict[Role, dict[str, Tensor]] = {
                role: files.read_tensors(file, record.weights[role])
                for role, file in files.locate(place, record).items()
            }
            if record.delta is None:  # else the names may be those of the base's tensors
                for role, each in tensors.items():
                    tensors[role] = expand(each, record.aliases.get(role, {}), str(path))
        except ArtifactError as error:
            problem = error
            continue
        return Artifact(place, record, plans, tensors["model"], tensors.get("removed", {}))
    raise problem or ArtifactError("holds no surgery.json, so it is no artefact", where=str(place), remedy=_FOLDER)


def _stamp(place: Path) -> list[tuple[str, int, int]]:
    try:
        entries = [entry for entry in os.scandir(place) if entry.is_file()]
        return sorted((entry.name, entry.inode(), entry.stat().st_mtime_ns) for entry in entries)
    except OSError:
        return []


def _write(place: Path, tensors: dict[Role, dict[str, Tensor]], describe: files.Describe, record: str) -> None:
    if place.is_dir():
        guarded(place, lambda: files.write_over(place, tensors, describe))
    else:
        guarded(place, lambda: files.write_new(place, tensors, describe, record))


def guarded(place: Path, work: Callable[[], object]) -> None:
    """Do some work on the disk; what the system refuses is an ``ArtifactError`` about ``place``."""
    try:
        work()
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise ArtifactError(problem, where=str(place), remedy="check its rights and the space on the disk") from error


def _history(model: object) -> dict[str, Any]:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"a {type(model).__name__} is no operated model", where="save", remedy="give what apply returned"
        )
    history = model.__dict__.get(MODEL_MARK)
    if not history:
        plain = "pass surgery.model; a plain model is saved with torch.save(model.state_dict(), ...) or safetensors"
        problem, remedy = without_history(model, plain)
        raise ArtifactError(problem, where=type(model).__name__, remedy=remedy)
    return history


def check_changes(model: nn.Module, history: dict[str, Any]) -> None:
    """Raise ``ArtifactError`` where the plans do not tell all that was done: they are what loading repeats."""
    before, now = set(history["changes"]), set(changes_of(model))
    if before != now:
        more, less = sorted(now - before), sorted(before - now)
        problems = [f"{listed(more)} came" if more else "", f"{listed(less)} went" if less else ""]
        raise ArtifactError(
            f"{' and '.join(filter(None, problems))} after the operation, so that loading could not repeat it",
            where=type(model).__name__,
            remedy="apply and revert the whole model rather than a part of it, fuse layers after loading; then save",
        )


def _base(said: dict[str, Any] | None) -> Base | None:
    """The base as it can be written down; arguments that JSON has no words for make it a model of the user's own."""
    if said is None:
        return None
    try:
        args = json.loads(json.dumps(said["args"], allow_nan=False))
    except (TypeError, ValueError):
        return None
    return Base(reference=said["reference"], args=args, pretrained=said.get("pretrained", False))
