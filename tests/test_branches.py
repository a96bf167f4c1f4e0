"""The right branch, the right axis, and nothing else: one small model a family, real weights, float64.

Default: the quick families. ``SESURGERY_ALL_FAMILIES=1`` runs every one.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sesurgery
from sesurgery.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from families import FAMILIES, Family  # type: ignore[import-not-found]  # noqa: E402

ALL = bool(os.environ.get("SESURGERY_ALL_FAMILIES"))
# Planning these takes seconds each; the matrix of docs/compatibility.md runs them too.
SLOW = ()
CHOSEN = [family for family in FAMILIES if ALL or not (family.heavy or family.name in SLOW)]
RESIDUAL = [family for family in CHOSEN if family.recipe == "standard"]


class Closed(nn.Module):
    """A gate that lets nothing through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


@dataclass(frozen=True)
class Call:
    """What a module was called with, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def original(family: Family) -> nn.Module:
    """The family's model in float64, its dropouts and stochastic depths at work while training."""
    dropping = Family(family.name, family.reference, {**family.args, "drop_path_rate": 0.2}, family.size, family.recipe)
    try:
        model = dropping.create().double()
    except sesurgery.SurgeryError:
        model = family.create().double()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.1
    return model


@dataclass(frozen=True)
class Case:
    """A family's model, the same operated with identity init, and the plan."""

    family: Family
    model: nn.Module
    ours: nn.Module
    plan: Plan


def operated(family: Family, recipe: Any) -> Case:
    model = original(family)
    surgery = sesurgery.apply(
        copy.deepcopy(model), recipe, inplace=True, input_size=family.size, init="identity", reduction=4
    )
    return Case(family, model, surgery.model, surgery.plan)


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda family: family.name)
def case(request: pytest.FixtureRequest) -> Case:
    return operated(request.param, request.param.recipe)


def record(model: nn.Module, paths: set[str], image: torch.Tensor) -> dict[str, Call]:
    """The first call of each module at ``paths`` in one forward."""
    calls: dict[str, Call] = {}
    handles = []
    for path in paths:

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            calls.setdefault(path, Call(_copied(args), _copied(kwargs), _copied(output)))

        handles.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return calls


def _copied(value: Any) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, value)


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def equal(one: Any, two: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(two), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def test_identity_init_changes_no_bit(case: Case) -> None:
    assert case.plan.edits
    image = case.family.image().double()
    with torch.no_grad():
        assert equal(case.ours.eval()(image), case.model.eval()(image))


def test_training_goes_as_before(case: Case) -> None:
    image = case.family.image().double()
    found: list[tuple[Any, dict[str, torch.Tensor], torch.Tensor]] = []
    for body in (copy.deepcopy(case.ours).train(), copy.deepcopy(case.model).train()):
        torch.manual_seed(3)
        with torch.no_grad():
            output = body(image)
        found.append((output, dict(body.named_buffers()), torch.get_rng_state()))
    (ours_out, ours_buffers, ours_rng), (out, buffers, rng) = found
    assert equal(ours_out, out)
    assert torch.equal(ours_rng, rng), "another number of random draws"
    for name, buffer in buffers.items():
        assert torch.equal(ours_buffers[name], buffer), name


def test_node_sees_the_channels_it_was_made_for(case: Case) -> None:
    ours = case.ours
    calls = record(ours, {edit.path for edit in case.plan.edits}, case.family.image(1).double())
    for edit in case.plan.edits:
        (value,) = calls[edit.path].args
        assert tuple(value.shape) == tuple(edit.options["shape"]), edit.path
        assert value.shape[edit.options["axis"]] == edit.channels, edit.path
        assert edit.channels in widths(ours.get_submodule(edit.host), ours), edit.path


def widths(host: nn.Module, model: nn.Module) -> set[int]:
    """Channels of the layers of a host: what its convolutions, linear layers and norms give."""
    found: set[int] = set()
    for layer in [*host.modules(), *model.modules()]:
        for name in ("out_channels", "out_features", "num_features"):
            found.add(getattr(layer, name, 0))
        found.update(getattr(layer, "normalized_shape", ())[-1:])
    return found
