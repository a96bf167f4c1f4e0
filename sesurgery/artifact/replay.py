"""From an artefact that was read and checked to a model: its base, its operations, its weights."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sesurgery.artifact.delta import GIVE_BASE, completed
from sesurgery.artifact.needs import check_needs
from sesurgery.artifact.record import Record
from sesurgery.artifact.tensors import cast_buffers, put
from sesurgery.errors import ArtifactError, InputError, WeightsError
from sesurgery.models import zoo
from sesurgery.models.checkpoints import load_into
from sesurgery.models.input_spec import rebuild
from sesurgery.operating.backup import MODEL_MARK, set_mark
from sesurgery.operating.perform import revert
from sesurgery.planning.operation import drafted, operate, remember_weights
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


def rebuilt(
    artifact: Artifact, model: nn.Module | None, weights: str | Path | None, example_input: Any, trust_code: bool
) -> nn.Module:
    """The operated model. A given ``model`` is operated in place, and reverted where that fails.

    Raises:
        ArtifactError: the artefact asks for code that is not trusted, or does not fit the model.
    """
    check_needs(artifact.record.needs, artifact.where)
    spec = _spec(artifact, trust_code) if model is None else None
    body = model if model is not None else _created(artifact, spec, weights)
    if model is not None and weights is not None:
        load_into(model, weights)
    own, removed = artifact.model, artifact.removed
    if artifact.record.delta is not None:
        own, removed = completed(artifact.record, own, removed, body, artifact.where)
    try:
        for index, plan in enumerate(artifact.plans):
            _replay(artifact, body, spec, index, plan, example_input)
        put(body, own, removed, artifact.where)
    except BaseException:
        if MODEL_MARK in body.__dict__:
            revert(body)
        raise
    cast_buffers(body, artifact.record.buffers)
    base = artifact.record.base
    set_mark(body, MODEL_MARK, {**body.__dict__[MODEL_MARK], "base": base.model_dump() if base else None})
    if weights is not None or (base and base.pretrained):
        remember_weights(body, weights)
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


def _created(artifact: Artifact, spec: zoo.ModelSpec | None, weights: str | Path | None) -> nn.Module:
    assert spec is not None
    delta, base = artifact.record.delta is not None, artifact.record.base
    ready = delta and weights is None and base is not None and base.pretrained
    if delta and weights is None and not ready:
        problem = "is a delta, which does not hold the weights that it was made from"
        raise ArtifactError(problem, where=artifact.where, remedy=GIVE_BASE)
    more = _numbers(zoo.create(zoo.ModelSpec(spec.source, spec.name), device="meta")) if ready else 0
    if delta and weights is not None:
        more = _file_size(weights)
    _check_size(artifact, _numbers(zoo.create(spec, device="meta")), more)
    body = zoo.create(spec, pretrained=ready)
    if delta and weights is not None:
        load_into(body, weights)
    return body


def _file_size(file: str | Path) -> int:
    try:
        return Path(file).stat().st_size
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", where=str(file)) from error


def _numbers(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])


def _check_size(artifact: Artifact, elements: int, more: int = 0) -> None:
    """Refuse to take memory for a model that these weights, and ``more`` numbers of a base, cannot fill."""
    stored = more + sum(tensor.numel() for tensor in [*artifact.model.values(), *artifact.removed.values()])
    if elements > _SLACK[0] * stored + _SLACK[1]:
        problem = f"asks for a model of {elements} numbers and holds {stored}"
        raise ArtifactError(problem, where=artifact.where, remedy=_INSTANCE)


def _replay(
    artifact: Artifact, model: nn.Module, spec: zoo.ModelSpec | None, index: int, plan: Plan, example_input: Any
) -> None:
    described = artifact.record.operations[index].input
    where = f"{artifact.where} › operations[{index}]"
    try:
        example = example_input if example_input is not None or described is None else rebuild(described, model)
    except ValueError as error:
        raise ArtifactError(str(error), where=f"{where}.input", remedy="save it again") from None
    try:
        draft = drafted(model, spec, plan, example, None, None)
        more = _numbers(model) if artifact.record.delta is not None else 0
        _check_size(artifact, draft.plan.after.params if draft.plan.after else 0, more)
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
