"""What was done to a network as plain data in another library's file, and done again where it is built anew."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from sesurgery.api import plans_of
from sesurgery.artifact.needs import check_needs, done_to
from sesurgery.artifact.record import Operated, first_problem
from sesurgery.artifact.save_load import check_changes
from sesurgery.errors import ArtifactError
from sesurgery.models.input_spec import rebuild
from sesurgery.operating.backup import MODEL_MARK, check_told
from sesurgery.operating.perform import revert
from sesurgery.planning.operation import drafted, operate
from sesurgery.plans import Plan
from sesurgery.words.paths import join
from sesurgery.words.text import one_line, shown

_AS_BEFORE = "build the model as it was built before"


def operations_in(model: nn.Module) -> dict[str, Any]:
    """All that was done to ``model`` and to parts of it, by the path of the part; empty where nothing was.

    Raises:
        ArtifactError: the model was changed since in ways that the plans do not tell.
    """
    check_told(model)
    said: dict[str, Any] = {}
    for path, part in model.named_modules():
        history = part.__dict__.get(MODEL_MARK)
        if history:
            check_changes(part, history)
            slim = [dataclasses.replace(Plan.from_json(text), diffs=(), skipped=()) for text in history["plans"]]
            done = done_to({**history, "plans": [plan.to_json(indent=None) for plan in slim]})
            said[path] = done.model_dump(mode="json")
    return said


def recipes_in(said: Any, where: str) -> dict[str, list[Any]]:
    """The recipes that ``operations_in`` told of, by the path of the part; ``ArtifactError`` where it told no such."""
    try:
        return {path: [each["plan"]["recipe"] for each in done["operations"]] for path, done in said.items()}
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError("does not say what was done to the model", where=where, remedy="save it again") from None


def new_layers(model: nn.Module) -> list[str]:
    """The paths of all layers that operations have put into ``model`` or into parts of it."""
    layers = [
        join(path, edit.path)
        for path, part in model.named_modules()
        for plan in plans_of(part)
        for edit in plan.edits
        if edit.action != "remove"
    ]
    return list(dict.fromkeys(layers))


def repeat_operations(model: nn.Module, said: Any, where: str) -> None:
    """Do to a fresh ``model`` what ``operations_in`` told of another, all of it or nothing; weights are loaded later.

    Args:
        said: data from a file, which is not trusted.
        where: the file, for messages.

    Raises:
        ArtifactError: the data is none, or does not fit the model.
    """
    if not isinstance(said, Mapping):
        raise ArtifactError("does not say what was done to the model", where=where, remedy="save it again")
    try:
        for path, data in said.items():
            _repeat(model, path, data, where)
    except BaseException:
        for part in model.modules():
            if MODEL_MARK in part.__dict__:
                revert(part)
        raise


def _repeat(model: nn.Module, path: Any, data: Any, where: str) -> None:
    try:
        done = Operated.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        text = first_problem(error) if isinstance(error, ValidationError) else one_line(error)
        problem = f"does not say what was done to the model ({text})"
        raise ArtifactError(problem, where=where, remedy="save it again") from None
    try:
        part = model.get_submodule(path)
    except (AttributeError, TypeError):
        problem = f"tells of an operation on {shown(str(path), 80)}, which this model does not have"
        raise ArtifactError(problem, where=where, remedy=_AS_BEFORE) from None
    check_needs(done.needs, where)
    for plan, operation in zip(done.plans(where), done.operations, strict=True):
        try:
            example = None if operation.input is None else rebuild(operation.input, part)
            operate(part, drafted(part, None, plan, example, None, None), None)
        except Exception as error:  # the plan is data from a file: whatever goes wrong with it is a fault of the file
            problem = f"the operation cannot be repeated on this model ({one_line(error, 400)})"
            raise ArtifactError(problem, where=where, remedy=_AS_BEFORE) from error
