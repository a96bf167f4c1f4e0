"""From an artefact that was read and checked to a model: its base, its operations, its weights."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sesurgery.artifact.needs import check_needs
from sesurgery.artifact.record import Record
from sesurgery.artifact.tensors import cast_buffers, put
from sesurgery.errors import ArtifactError, InputError
from sesurgery.models import zoo
from sesurgery.models.input_spec import rebuild
from sesurgery.operating.backup import MODEL_MARK, set_mark
from sesurgery.operating.perform import revert
from sesurgery.planning.operation import drafted, operate
from sesurgery.plans import Plan
from sesurgery.words.text import one_line

LIBRARIES = ("timm", "torchvision")
# A model may need more memory on the way than in the end, where one operation takes away what another put in.
_SLACK = (4, 1 << 22)
_INSTANCE = "load it into the model that was operated: sesurgery.load(folder, model=...)"


@dataclass(frozen=True)
class Artifact:
    """A saved operation, read and checked, with nothing built yet.

    Attributes:
        record: what ``surgery.json`` says.
        plans: one for each operation, in order.
        model: the operated model's state_dict.
        removed: weights that operations took away, by ``path/key``.
    """

    folder: Path
    record: Record
    plans: tuple[Plan, ...]
    model: dict[str, Tensor]
    removed: dict[str, Tensor]

    @property
    def where(self) -> str:
        """How messages call it."""
        return str(self.folder)


def rebuilt(artifact: Artifact, model: nn.Module | None, example_input: Any, trust_code: bool) -> nn.Module:
    """The operated model. A given ``model`` is operated in place, and reverted where that fails.

    Raises:
        ArtifactError: the artefact asks for code that is not trusted, or does not fit the model.
    """
    check_needs(artifact.record.needs, artifact.where)
    spec = _spec(artifact, trust_code) if model is None else None
    body = model if model is not None else _created(artifact, spec)
    try:
        for index, plan in enumerate(artifact.plans):
            _replay(artifact, body, spec, index, plan, example_input)
        put(body, artifact.model, artifact.removed, artifact.where)
    except BaseException:
        if MODEL_MARK in body.__dict__:
            revert(body)
        raise
    cast_buffers(body, artifact.record.buffers)
    base = artifact.record.base
    set_mark(body, MODEL_MARK, {**body.__dict__[MODEL_MARK], "base": base.model_dump() if base else None})
    return body.train(artifact.record.training)


def versions() -> dict[str, str]:
    """What a plan depends on, as installed here."""
    from sesurgery import __version__

    numbers = {"sesurgery": __version__, "python": platform.python_version()}
    for name in ("torch", *LIBRARIES):
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return numbers


def _spec(artifact: Artifact, trust_code: bool) -> zoo.ModelSpec:
    base = artifact.record.base
    if base is None:
        problem = "was made from a model of your own, which the folder cannot rebuild"
        remedy = "give a fresh instance: sesurgery.load(folder, model=...)"
        raise ArtifactError(problem, where=artifact.where, remedy=remedy)
    try:
        spec = zoo.resolve(base.reference, base.args)
    except InputError as error:
        raise ArtifactError(f"its base cannot be made: {error}", where=artifact.where, remedy=_INSTANCE) from error
    if spec.source not in LIBRARIES and not trust_code:
        problem = f'its base "{base.reference[:200]}" is code outside timm and torchvision, and loading would run it'
        remedy = "give an instance (model=...), or allow it if you trust the folder (trust_code=True)"
        raise ArtifactError(problem, where=artifact.where, remedy=remedy)
    return spec


def _created(artifact: Artifact, spec: zoo.ModelSpec | None) -> nn.Module:
    assert spec is not None
    bare = zoo.create(spec, device="meta")
    _check_size(artifact, sum(tensor.numel() for tensor in [*bare.parameters(), *bare.buffers()]))
    return zoo.create(spec)


def _check_size(artifact: Artifact, elements: int) -> None:
    """Refuse to take memory for a model that these weights cannot fill."""
    stored = sum(tensor.numel() for tensor in [*artifact.model.values(), *artifact.removed.values()])
    if elements > _SLACK[0] * stored + _SLACK[1]:
        problem = f"asks for a model of {elements} numbers and holds {stored}"
        raise ArtifactError(problem, where=artifact.where, remedy=_INSTANCE)


def _replay(
    artifact: Artifact, model: nn.Module, spec: zoo.ModelSpec | None, index: int, plan: Plan, example_input: Any
) -> None:
    described = artifact.record.operations[index].input
    where = f"{artifact.where} › operations[{index}]"
    try:
        example = example_input if example_input is not None or described is None else rebuild(described)
    except ValueError as error:
        raise ArtifactError(str(error), where=f"{where}.input", remedy="save it again") from None
    try:
        draft = drafted(model, spec, plan, example, None, None)
        _check_size(artifact, draft.plan.after.params if draft.plan.after else 0)
        operate(model, draft, spec)
    except Exception as error:
        # The plan is data from a file: whatever goes wrong with it is a fault of the file.
        remedy = f"load it with the versions it was saved with{_differences(artifact.record)}"
        problem = f"cannot be repeated on this model ({one_line(error, 400)})"
        raise ArtifactError(problem, where=where, remedy=remedy) from error


def _differences(record: Record) -> str:
    here = versions()
    differ = [
        f"{name} {there}, here {here.get(name)}" for name, there in record.versions.items() if here.get(name) != there
    ]
    return f" ({'; '.join(differ)})" if differ else ", or give the very model that was operated (model=...)"
