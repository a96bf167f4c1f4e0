"""One operation from a model and a recipe to a planned and performed change."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgery.errors import ModelError, StalePlanError
from sesurgery.models import zoo
from sesurgery.models.input_spec import describe
from sesurgery.operating.backup import MODEL_MARK, changes_of, set_mark
from sesurgery.operating.distributed import refuse_operation
from sesurgery.operating.perform import perform
from sesurgery.planning.planner import Draft, Progress, draft, replay
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.plans import Plan
from sesurgery.recipe.rules import Recipe

LOG = logging.getLogger("sesurgery")


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage meanwhile: nearly all of the many small objects of a plan live as long as it is made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def drafted(
    model: nn.Module,
    spec: zoo.ModelSpec | None,
    wanted: Recipe | Plan,
    example_input: Any,
    input_size: Sequence[int] | str | None,
    progress: Progress | None,
) -> Draft:
    """A recipe planned on a model, or a plan made concrete on it; the model stays as it is."""
    refuse_operation(model)
    report = progress or _silent
    report("looking at the model", 0, 2 if isinstance(wanted, Plan) else len(wanted.rules) + 2)
    try:
        rehearsal = rehearse(model, spec, example_input, input_size, wanted if isinstance(wanted, Plan) else None)
    except ModelError as error:
        if not isinstance(wanted, Plan):
            raise
        remedy = "plan again on this model, or give an input that it accepts: example_input=..."
        raise StalePlanError(error.what, where=error.where, remedy=remedy) from error
    if isinstance(wanted, Plan):
        return _logged(replay(rehearsal, wanted, report))
    return _logged(draft(rehearsal, wanted, name_of(model, spec), report))


def rehearse(
    model: nn.Module,
    spec: zoo.ModelSpec | None,
    example_input: Any,
    input_size: Sequence[int] | str | None,
    plan: Plan | None = None,
) -> Rehearsal:
    """A model looked at with the first of the inputs that it may want on which it runs.

    Args:
        plan: one that is to be done again: a model of the user's own probably takes what it was made on.

    Raises:
        ModelError: it runs on none of them, or cannot be copied.
    """
    first: ModelError | None = None
    own = spec is None and example_input is None and input_size is None
    before = () if plan is None or not own else _inputs_of(plan, model)
    for args in itertools.chain(before, _inputs(model, spec, example_input, input_size)):
        try:
            return Rehearsal(model, args, None if spec is None else lambda: zoo.create(spec))
        except ModelError as error:
            first = first or error
    raise first or ModelError("no input could be made for it", remedy="give one: example_input=...")


def _logged(planned: Draft) -> Draft:
    plan = planned.plan
    LOG.info("%s: %d edits planned, %d sites left alone", plan.model, len(plan.edits), len(plan.skipped))
    for edit in plan.edits:
        LOG.debug("%s: %s %s %s, by %s", plan.model, edit.action, edit.path, edit.at, edit.route)
    for skip in plan.skipped:
        LOG.debug("%s: left alone %s: %s", plan.model, skip.path or "(model)", skip.reason)
    return planned


def _silent(step: str, done: int, total: int) -> None:
    return None


def _inputs(
    model: nn.Module, spec: zoo.ModelSpec | None, example_input: Any, input_size: Sequence[int] | str | None
) -> Iterator[tuple[Any, ...]]:
    if example_input is not None:
        yield example_input if isinstance(example_input, tuple) else (example_input,)
        return
    yield from zoo.candidate_inputs(model, spec, input_size, device="meta")


def _inputs_of(plan: Plan, model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """What a plan was made on, with one sample: numbers, or behind the first input whole ones (steps, classes)."""
    numbers = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
    dtype = next(numbers, torch.get_default_dtype())
    for later in dict.fromkeys((dtype, torch.long if len(plan.inputs) > 1 else dtype)):
        dtypes = [later if index else dtype for index, _ in enumerate(plan.inputs)]
        shapes = [shape if shape == (1,) else (1, *shape) for shape in plan.inputs]
        if shapes:
            yield tuple(map(lambda shape, kind: torch.empty(shape, dtype=kind, device="meta"), shapes, dtypes))


def name_of(model: nn.Module, spec: zoo.ModelSpec | None) -> str:
    """The name that a model was made by, also where it was operated on since; its class where there is none."""
    if spec is not None:
        return spec.name
    base = (model.__dict__.get(MODEL_MARK) or {}).get("base")
    return zoo.resolve(base["reference"]).name if base else type(model).__name__


def remember_weights(model: nn.Module, file: str | Path | None) -> None:
    """Note which weights an operated model had before: those of a file, or its library's own."""
    history = model.__dict__[MODEL_MARK]
    if file is not None:
        set_mark(model, MODEL_MARK, {**history, "source": str(file)})
    elif history["base"] is not None:
        known = {**history["base"], "pretrained": True}
        set_mark(model, MODEL_MARK, {**history, "source": True, "base": known})


def operate(model: nn.Module, planned: Draft, spec: zoo.ModelSpec | None) -> None:
    history: dict[str, Any] = dict(model.__dict__.get(MODEL_MARK) or {"base": None, "plans": (), "inputs": ()})
    if spec is not None:
        history["base"] = {"reference": spec.reference, "args": dict(spec.args)}
    history["plans"] = (*history["plans"], planned.plan.to_json(indent=None))
    history["inputs"] = (*history["inputs"], describe(planned.example))
    perform(model, planned.actions)
    LOG.info("%s: operated, %d modules changed", planned.plan.model, len({edit.host for edit in planned.plan.edits}))
    set_mark(model, MODEL_MARK, {**history, "changes": changes_of(model)})
