"""Bad calls and faults inside ``apply``: the model is afterwards bit for bit what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import TINY, Branching
from torch import nn

import sesurgery
from sesurgery.edits import insert
from sesurgery.errors import SurgeryError
from sesurgery.operating import edited_class as classes
from sesurgery.operating import perform as operate
from sesurgery.operating.backup import HOST_MARK, MODEL_MARK
from sesurgery.planning import operation, rehearsal
from sesurgery.rewriting import trial
from sesurgery.substitutes import registry
from sesurgery.tracing import survey


def snapshot(model: nn.Module) -> Any:
    """Everything an operation could change, down to the order of attributes; by identity where that says more."""
    parts = []
    for path, module in model.named_modules(remove_duplicate=False):
        fields = [(name, id(value)) for name, value in module.__dict__.items() if not isinstance(value, dict)]
        tables = [(name, list(value.items())) for name, value in module.__dict__.items() if isinstance(value, dict)]
        ids = [(name, [(key, id(item)) for key, item in items]) for name, items in tables]
        parts.append((path, id(type(module)), module.training, list(module.__dict__), fields, ids))
    return parts, {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()


def assert_untouched(model: nn.Module, before: Any) -> None:
    parts, state, rng = snapshot(model)
    assert parts == before[0]
    assert list(state) == list(before[1])
    assert all(torch.equal(state[key], before[1][key]) for key in state)
    assert torch.equal(rng, before[2])


BAD_CALLS: dict[str, Callable[[nn.Module], object]] = {
    "recipe": lambda model: sesurgery.apply(model, "standart", inplace=True),
    "recipe of another type": lambda model: sesurgery.apply(model, 7, inplace=True),  # type: ignore[arg-type]
    "stages": lambda model: sesurgery.apply(model, "standard", stages="9", inplace=True),
    "module": lambda model: sesurgery.apply(model, "standard", module="sse", inplace=True),
    "option": lambda model: sesurgery.apply(model, "standard", reduktion=8, inplace=True),
    "value": lambda model: sesurgery.apply(model, "standard", reduction="x", inplace=True),
    "example": lambda model: sesurgery.apply(model, "standard", example_input=torch.ones(1, 7, 8, 8), inplace=True),
    "size": lambda model: sesurgery.apply(model, "standard", input_size=(1, 1), inplace=True),
    "model_args": lambda model: sesurgery.apply(model, "standard", model_args={"a": 1}, inplace=True),
    "weights": lambda model: sesurgery.apply(model, "standard", weights="none.pth", inplace=True),
    "nothing matched": lambda model: sesurgery.apply(model, "shufflenet-k5", inplace=True),
    "stale plan": lambda model: sesurgery.apply(model, sesurgery.plan(TINY, "standard"), inplace=True),
    "plan with stages": lambda model: sesurgery.apply(model, sesurgery.plan(TINY, "standard"), stages=1, inplace=True),
    "revert": sesurgery.revert,
    "save": lambda model: sesurgery.save(model, "never"),
    "load": lambda model: sesurgery.load("never", model=model),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_leave_the_model_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = Branching()
    model.first.eval()
    before = snapshot(model)
    with pytest.raises(SurgeryError) as caught:
        BAD_CALLS[name](model)
    assert_untouched(model, before)
    assert caught.value.what
    assert os.listdir(tmp_path) == []


class FaultError(BaseException):
    """A fault that nothing in the package may catch and swallow."""


def inject(patch: pytest.MonkeyPatch, place: tuple[Any, str], step: int, *, after: bool) -> list[int]:
    """Fail at the ``step``-th call of a function, before or after it has done its work."""
    owner, name = place
    real = getattr(owner, name)
    calls: list[int] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs) if after else None
        calls.append(1)
        if len(calls) == step:
            raise FaultError
        return result if after else real(*args, **kwargs)

    patch.setattr(owner, name, broken)
    return calls


PLACES: dict[str, tuple[Any, str]] = {
    "looking": (rehearsal, "survey"),
    "dissecting": (rehearsal, "dissect"),
    "planning": (operation, "draft"),
    "performing on the twin": (rehearsal, "perform"),
    "running the twin": (survey, "run"),
    "the cost of a layer": (insert, "layer_cost"),
    "counting the costs": (rehearsal, "counted"),
    "a node on the twin or the model": (registry.Build, "__call__"),
    "performing": (operation, "perform"),
    "building all nodes": (operate, "_build"),
    "setting a child": (operate, "_set_child"),
    "setting methods": (operate, "_set_methods"),
    "marking a host": (operate, "_mark"),
    "asking for a class": (operate, "edited_class"),
    "compiling a method": (classes, "compiled"),
    "making a class": (classes, "_make_class"),
    "becoming it": (operate, "become"),
    "a trial on the twin": (trial, "edited_class"),
    "saying what was done": (operation, "describe"),
}


# The copy is operated on only where a second rule is to see what the first has done.
TWO_RULES = {
    "rules": [
        {"insert": {"module": "se"}, "at": "before residual add"},
        {"insert": {"module": "eca"}, "at": "end of backbone"},
    ]
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", PLACES)
def test_a_fault_at_any_step_leaves_the_model_as_it_was(name: str, after: bool) -> None:
    if name == "performing" and after:
        pytest.skip("then the operation is done")
    model = Branching()
    model.first.eval()
    before = snapshot(model)
    for step in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(classes, "_CLASSES", {})
            calls = inject(patch, PLACES[name], step, after=after)
            try:
                recipe = TWO_RULES if name == "performing on the twin" else "standard"
                operated = sesurgery.apply(model, recipe, inplace=True, example_input=torch.ones(1, 3, 8, 8))
            except FaultError:
                assert_untouched(model, before)
                continue
            assert len(calls) < step
            break
    assert step > 1, "the fault was never reached"
    assert operated.model is model
    assert MODEL_MARK in model.__dict__
    sesurgery.revert(model)
    assert_untouched_state(model, before)


def assert_untouched_state(model: nn.Module, before: Any) -> None:
    assert list(model.state_dict()) == list(before[1])
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())
    assert not any(HOST_MARK in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", ["setting a child", "setting methods", "saying what was done"])
def test_a_fault_in_a_second_operation_keeps_the_first(name: str) -> None:
    model = sesurgery.apply(Branching(), "standard", example_input=torch.ones(1, 3, 8, 8)).model
    before = snapshot(model)
    with pytest.MonkeyPatch.context() as patch:
        calls = inject(patch, PLACES[name], 0, after=False)
        sesurgery.apply(model, "post", example_input=torch.ones(1, 3, 8, 8))
    torch.set_rng_state(before[2])
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, PLACES[name], len(calls), after=True)
        with pytest.raises(FaultError):
            sesurgery.apply(model, "post", inplace=True, example_input=torch.ones(1, 3, 8, 8))
    assert_untouched(model, before)


def test_a_fault_in_a_real_class_of_timm() -> None:
    model = timm.create_model("test_resnet")
    before = snapshot(model)
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, (operate, "_set_child"), 3, after=True)
        with pytest.raises(FaultError):
            sesurgery.apply(model, "standard", inplace=True)
    assert_untouched(model, before)
