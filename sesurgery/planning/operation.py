"""One operation from a model and a recipe to a planned and performed change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from sesurgery.errors import ModelError
from sesurgery.models import zoo
from sesurgery.models.input_spec import describe
from sesurgery.operating.backup import MODEL_MARK
from sesurgery.operating.perform import perform
from sesurgery.planning.planner import Draft, Progress, draft, replay
from sesurgery.plans import Plan
from sesurgery.recipe.rules import Recipe


def drafted(
    model: nn.Module,
    spec: zoo.ModelSpec | None,
    wanted: Recipe | Plan,
    example_input: Any,
    input_size: Sequence[int] | str | None,
    progress: Progress | None,
) -> Draft:
    def made(args: tuple[Any, ...]) -> Draft:
        if isinstance(wanted, Plan):
            return replay(model, wanted, args, progress, fresh_model(spec))
        return draft(model, wanted, args, name_of(model, spec), progress, fresh_model(spec))

    return first_that_runs(made, model, spec, example_input, input_size)


def fresh_model(spec: zoo.ModelSpec | None) -> Callable[[], nn.Module] | None:
    return None if spec is None else lambda: zoo.create(spec)


def first_that_runs(
    use: Callable[[tuple[Any, ...]], Any],
    model: nn.Module,
    spec: zoo.ModelSpec | None,
    example_input: Any,
    input_size: Sequence[int] | str | None,
) -> Any:
    """Try the inputs that a model may want until it runs on one."""
    first: ModelError | None = None
    for args in _inputs(model, spec, example_input, input_size):
        try:
            return use(args)
        except ModelError as error:
            first = first or error
    raise first or ModelError("no input could be made for it", remedy="give one: example_input=...")


def _inputs(
    model: nn.Module, spec: zoo.ModelSpec | None, example_input: Any, input_size: Sequence[int] | str | None
) -> Iterator[tuple[Any, ...]]:
    if example_input is not None:
        yield example_input if isinstance(example_input, tuple) else (example_input,)
        return
    yield from zoo.candidate_inputs(model, spec, input_size, device="meta")


def name_of(model: nn.Module, spec: zoo.ModelSpec | None) -> str:
    return spec.name if spec is not None else type(model).__name__


def operate(model: nn.Module, made: Draft, spec: zoo.ModelSpec | None) -> None:
    history: dict[str, Any] = dict(model.__dict__.get(MODEL_MARK) or {"base": None, "plans": (), "inputs": ()})
    if spec is not None:
        history["base"] = {"reference": spec.reference, "args": dict(spec.args)}
    history["plans"] = (*history["plans"], made.plan.to_json(indent=None))
    history["inputs"] = (*history["inputs"], describe(made.example))
    perform(model, made.actions)
    model.__dict__[MODEL_MARK] = history
