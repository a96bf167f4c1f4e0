"""``surgery.json``: what an artefact says about itself, written and read with suspicion. Runs nothing it reads."""

from __future__ import annotations

import json
import keyword
import re
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from sesurgery.artifact.names import Role
from sesurgery.errors import ArtifactError
from sesurgery.plans import BypassGate, Edit, Insertion, Plan
from sesurgery.words.text import one_line

VERSION = 1
MAX_BYTES = 64 << 20
# A new child's name becomes part of code; other parts of a path only have to lead to a module that is there.
_NAME = re.compile(r"[^\W\d]\w*|\d+")
# What every module has already: a child of such a name would hide it.
_TAKEN = frozenset(dir(nn.Module()))

Path_ = Annotated[str, Field(max_length=4096)]
Text = Annotated[str, Field(max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Base(_Strict):
    """How the model was made before it was operated: a reference as ``zoo.resolve`` reads it, and its arguments.

    ``pretrained``: with the library's own weights.
    """

    reference: Annotated[str, Field(min_length=1, max_length=4096)]
    args: dict[str, Any] = {}
    pretrained: bool = False


class Operation(_Strict):
    """One ``apply``: its plan (with the recipe as used) and the example input, described."""

    plan: dict[str, Any]
    input: dict[str, Any] | None = None


class Need(_Strict):
    """A user's own attention layer or edit kind that an operation used."""

    kind: Literal["module", "edit kind"]
    name: Text
    origin: Text


class WeightsFile(_Strict):
    """A file of weights, by content; its name follows from its role."""

    size: Annotated[int, Field(ge=0)]
    sha256: Digest


class Delta(_Strict):
    """The tensors that a delta leaves to its base: their digests, by the names that they would be stored under."""

    unchanged: dict[Path_, Digest]
    removed: dict[Path_, Digest] = {}


class Operated(_Strict):
    """What was done to one model.

    Attributes:
        operations: in the order in which they were performed.
        needs: what of the user's own has to be registered before the operations can be repeated.
    """

    operations: Annotated[list[Operation], Field(min_length=1, max_length=1000)]
    needs: list[Need] = []

    def plans(self, where: str) -> list[Plan]:
        """The plans, each checked name by name: they will be part of code."""
        return [_plan(operation.plan, f"{where} › operations[{i}]") for i, operation in enumerate(self.operations)]


class Record(Operated):
    """All of ``surgery.json``.

    Attributes:
        base: None where the model was an instance of the user's own.
        weights: the files that belong to it.
        aliases: second names of tensors that share memory, by file: name -> name it is stored under.
        exchanged: paths of the children that operations set; ``a::b`` is ``b`` inside what was taken away at ``a``.
        buffers: dtypes of floating-point buffers that a state_dict leaves out.
        delta: what the folder leaves to the base; None where it holds every tensor.
    """

    format: Literal["sesurgery"]
    version: Literal[1]
    base: Base | None
    weights: dict[Role, WeightsFile]
    aliases: dict[Role, dict[Path_, Path_]] = {}
    exchanged: list[Path_] = []
    buffers: dict[Path_, Text] = {}
    delta: Delta | None = None
    training: bool = False
    versions: dict[Text, Text] = {}

    def to_bytes(self) -> bytes:
        """The text of the file. Raises ``ArtifactError`` where it would be too long to be read again."""
        data = (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()
        if len(data) > MAX_BYTES:
            problem = f"the plans of this model take more than {MAX_BYTES >> 20} MiB"
            raise ArtifactError(problem, where="surgery.json", remedy="apply fewer operations, each on more places")
        return data


def parse(data: bytes, where: str) -> Record:
    """Read ``surgery.json``.

    Raises:
        ArtifactError: it is none, or says something that it never says.
    """
    try:
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        text = "nested too deep" if isinstance(error, RecursionError) else one_line(error)
        raise ArtifactError(f"is truncated or no JSON ({text})", where=where, remedy=_AGAIN) from None
    if not isinstance(raw, dict) or raw.get("format") != "sesurgery":
        raise ArtifactError("is no record of an operation", where=where, remedy=_FOLDER)
    if type(raw.get("version")) is int and raw["version"] > VERSION:
        problem = f"was written by a newer sesurgery (format {str(raw['version'])[:20]}, this one reads {VERSION})"
        raise ArtifactError(problem, where=where, remedy="pip install --upgrade sesurgery")
    try:
        record = Record.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        raise ArtifactError(first_problem(error), where=where, remedy=_AGAIN) from None
    if "model" not in record.weights:
        raise ArtifactError('weights: "model" is missing', where=where, remedy=_AGAIN)
    return record


_AGAIN = "save the operation again, or take the folder from a backup"
_FOLDER = "name a folder that sesurgery.save or sesurgery apply -o wrote"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key is there twice")
    return entries


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def first_problem(error: ValidationError | RecursionError) -> str:
    """What is wrong first in some data, and where."""
    if isinstance(error, RecursionError):
        return "is nested too deep"
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:60] for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}{more}"


def _plan(data: dict[str, Any], where: str) -> Plan:
    try:
        plan = Plan.from_dict(data)
    except (TypeError, ValueError) as error:
        text = one_line(error)
        raise ArtifactError(f"holds no plan ({text})", where=where, remedy=_AGAIN) from None
    if not plan.edits:
        raise ArtifactError("its plan changes nothing", where=where, remedy=_AGAIN)
    for index, edit in enumerate(plan.edits):
        place = f"{where}.plan.edits[{index}]"
        for path in (edit.path, edit.host, edit.block or ""):
            if path and not all(part and part.isprintable() and len(part) < 200 for part in path.split(".")):
                raise ArtifactError(f"{path[:80]!r} is no path of a module", where=place, remedy=_AGAIN)
        name = edit.path.rpartition(".")[2]
        if _adds_a_child(edit) and (not _NAME.fullmatch(name) or name in _TAKEN or keyword.iskeyword(name)):
            raise ArtifactError(f"{name[:80]!r} is no name of a new module", where=place, remedy=_AGAIN)
    return plan


def _adds_a_child(edit: Edit) -> bool:
    change = edit.change
    return isinstance(change, Insertion) or (isinstance(change, BypassGate) and change.layer is not None)
