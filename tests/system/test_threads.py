"""Many threads at once on one model: equal plans, and a model that nobody touched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import timm
import torch
from torch import nn

import sesurgery

THREADS = 8


def together(work: Callable[[int], Any]) -> list[Any]:
    """The results of ``work(0)`` … ``work(7)``, started at the same moment."""
    gate = threading.Barrier(THREADS)

    def start(index: int) -> Any:
        gate.wait(timeout=60)
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def state(model: nn.Module) -> dict[str, Any]:
    """All that a model holds: classes, modes, attributes by identity, weights by identity and version."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        fields = {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)}
        found[path] = (type(module), module.training, fields, tuple(module._modules), module.__class__.forward)
    tensors = {key: (id(value), value._version) for key, value in model.state_dict(keep_vars=True).items()}
    return {**found, "weights": tensors}


def test_eight_threads_plan_one_model_alike() -> None:
    model = timm.create_model("test_resnet").train()
    before = state(model)
    alone = sesurgery.plan(model, "standard", input_size=(3, 64, 64))
    plans = together(lambda _: sesurgery.plan(model, "standard", input_size=(3, 64, 64)))
    assert all(plan == alone for plan in plans)
    assert len({plan.to_json() for plan in plans}) == 1
    assert len(alone.edits) == 4
    assert state(model) == before


def test_threads_with_recipes_of_their_own_do_not_meet() -> None:
    model = timm.create_model("test_vit", img_size=64)
    before = state(model)
    recipes = ("standard", "identity", "pre", "post")
    alone = {recipe: sesurgery.plan(model, recipe, input_size=(3, 64, 64)) for recipe in recipes}
    plans = together(lambda index: sesurgery.plan(model, recipes[index % 4], input_size=(3, 64, 64)))
    assert all(plan == alone[recipes[index % 4]] for index, plan in enumerate(plans))
    assert len({plan.to_json() for plan in plans}) == 4
    assert state(model) == before


def test_model_runs_while_others_plan() -> None:
    """torch.fx patches nn.Module for every thread while it traces; a forward elsewhere must not notice."""
    model = timm.create_model("test_resnet").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(image)

    def work(index: int) -> Any:
        if index % 2:
            return sesurgery.plan(model, "standard", input_size=(3, 64, 64)).to_json()
        with torch.no_grad():
            return all(torch.equal(model(image), wanted) for _ in range(20))

    results = together(work)
    assert all(result is True for result in results[::2])
    assert len(set(results[1::2])) == 1


def test_threads_apply_to_models_of_their_own() -> None:
    models = [timm.create_model("test_resnet").eval() for _ in range(THREADS)]
    operated = together(lambda index: sesurgery.apply(models[index], "standard", input_size=(3, 64, 64)))
    assert len({surgery.plan.to_json() for surgery in operated}) == 1
    assert all(len(surgery.new_parameters()) == 16 for surgery in operated)
    assert all(surgery.model is not model for surgery, model in zip(operated, models, strict=True))
