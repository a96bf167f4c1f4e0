"""Hosts whose class or attributes somebody changed after the operation, or before it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import Short, lively
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import sesurgery
from sesurgery.errors import InputError

IMAGE = torch.randn(2, 3, 8, 8)


class Mixing(nn.Module):
    """A host with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.conv2d(self.conv(x), self.mix[:, :, None, None])


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def network() -> nn.Sequential:
    return lively(nn.Sequential(nn.Conv2d(3, 8, 1), Mixing(), Mixing())).eval()


def test_a_host_that_was_parametrized_since_is_operated_again_and_reverted() -> None:
    original = network()
    operated = sesurgery.apply(original, "standard", example_input=IMAGE, init="identity").model
    for model in (original, operated):
        for block in (model[1], model[2]):
            parametrize.register_parametrization(block, "mix", Symmetric())
    wanted = original(IMAGE)
    twice = sesurgery.apply(operated, "post", example_input=IMAGE, init="identity")
    assert len(twice.plan.edits) == 2
    for model in (operated, twice.model):
        assert torch.equal(model(IMAGE), wanted)
        assert torch.equal(copy.deepcopy(model)(IMAGE), wanted)
        sesurgery.revert(model)
        assert torch.equal(model(IMAGE), wanted)
        assert list(model.state_dict()) == list(original.state_dict())
        parametrize.remove_parametrizations(model[1], "mix")
        assert type(model[1]) is Mixing


def test_a_class_that_cannot_be_rebuilt_is_refused_before_anything_changes() -> None:
    model = sesurgery.apply(network(), "standard", example_input=IMAGE).model
    kind: Any = type(model[2])

    class Louder(kind):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model[2].__class__ = Louder
    wanted, keys = model(IMAGE), list(model.state_dict())
    with pytest.raises(InputError, match=r"its class was changed to .*Louder since"):
        sesurgery.revert(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(IMAGE), wanted)


def test_a_pruned_model_is_operated_in_place() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 1), Short(), Short())).eval()
    for block in (model[1], model[2]):
        prune.l1_unstructured(block.conv, "weight", 0.5)
    wanted = model(IMAGE)
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity", inplace=True)
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    assert torch.equal(model(IMAGE), wanted)


class Rebuilding(Short):
    """Pickles and copies itself by building anew and loading the numbers."""

    def __reduce__(self) -> Any:
        return _rebuilt, (self.state_dict(),)


def _rebuilt(state: Any) -> Rebuilding:
    module = Rebuilding()
    module.load_state_dict(state)
    return module


def test_a_way_of_copying_that_wants_numbers_does_not_hinder_planning() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 1), Rebuilding(), Rebuilding()))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    assert torch.equal(surgery.model.eval()(IMAGE), model.eval()(IMAGE))


# Forwards that were set on instances: a deep copy takes a function over as it is.


def damped(forward: Any) -> Any:
    def new(x: Tensor, factor: float = 0.5) -> Tensor:
        return forward(x) * factor

    return new


def test_a_forward_set_on_an_instance_runs_the_copys_own_layers() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 1), Short(), Short())).eval()
    model[1].conv.forward = damped(model[1].conv.forward)
    model[2].forward = damped(model[2].forward)
    wanted = model(IMAGE)
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert torch.equal(operated(IMAGE), wanted)
    operated(IMAGE).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    old = [parameter for name, parameter in operated.named_parameters() if ".se." not in name]
    assert all(parameter.grad is not None for parameter in old)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(operated(IMAGE), wanted)


def test_a_compiled_model_is_operated_inside() -> None:
    """Its wrapper's forward is a function that knows itself by its id."""
    model = torch.compile(lively(nn.Sequential(nn.Conv2d(3, 8, 1), Short(), Short())).eval(), backend="eager")
    plan = sesurgery.plan(model, "standard", example_input=IMAGE)  # type: ignore[arg-type]
    assert [edit.path for edit in plan.edits] == ["_orig_mod.1.se", "_orig_mod.2.se"]
