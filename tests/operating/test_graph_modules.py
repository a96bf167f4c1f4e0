"""Operated GraphModules: copied, pickled, reverted and operated again, in either mode."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
import torchvision
from networks import Residual, lively
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

import sesurgery

IMAGE = torch.randn(2, 3, 8, 8)


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_an_operated_graph_is_operated(name: str) -> None:
    original = fx.symbolic_trace(lively(nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8)))).eval()
    operated = sesurgery.apply(original, "standard", example_input=IMAGE).model
    copied = COPIES[name](operated).eval()
    assert torch.equal(copied(IMAGE), operated(IMAGE))
    assert not torch.equal(copied(IMAGE), original(IMAGE))
    again = sesurgery.apply(copied, "post", example_input=IMAGE)
    assert len(again.plan.edits) == 1
    sesurgery.revert(copied)
    assert torch.equal(copied(IMAGE), original(IMAGE))
    assert list(copied.state_dict()) == list(original.state_dict())
    assert type(copied) is not type(original)  # torch.fx gives every GraphModule a class of its own


def test_a_failed_or_reverted_operation_leaves_no_mark_on_a_graph() -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8))).eval()
    fields = dict(model.__dict__)
    meta = copy.deepcopy(model.meta)
    sesurgery.revert(sesurgery.apply(model, "standard", example_input=IMAGE, inplace=True).model)
    assert model.meta == meta
    assert model.__dict__.keys() == fields.keys()


@pytest.mark.parametrize("training", [False, True])
def test_a_feature_extractor_is_operated_in_its_mode(training: bool) -> None:
    """torchvision's own deep copy of one comes back in train mode."""
    original = create_feature_extractor(networks.lively(torchvision.models.resnet18()), ["layer1", "layer4"])
    original.train(training)
    image = torch.randn(2, 3, 32, 32)
    operated = sesurgery.apply(original, "standard", stages="4", example_input=image, init="identity").model
    assert [part.training for part in operated.modules()] == [training] * len(list(operated.modules()))
    for mode in (training, not training):
        ours, theirs = operated.train(mode)(image), original.train(mode)(image)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("recipe", ["standard", "post", "identity", "pre"])
def test_an_exported_program_is_operated(recipe: str) -> None:
    """What ``torch.export`` gives is a graph of aten calls."""
    original = lively(nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8), Residual(8))).eval()
    exported: Any = torch.export.export(original, (IMAGE,)).module()
    surgery = sesurgery.apply(exported, recipe, example_input=IMAGE, init="identity")
    assert len(surgery.plan.edits) == 2
    assert torch.equal(surgery.model(IMAGE), original(IMAGE))
    for parameter in surgery.new_parameters():
        nn.init.normal_(parameter)
    assert not torch.equal(surgery.model(IMAGE), original(IMAGE))
    assert torch.equal(copy.deepcopy(surgery.model)(IMAGE), surgery.model(IMAGE))
    other = "post" if recipe == "standard" else "standard"
    again = sesurgery.apply(surgery.model, other, module="eca", example_input=IMAGE)
    assert {edit.route for edit in again.plan.edits} == {"graph"}
    assert torch.equal(sesurgery.revert(again.model)(IMAGE), original(IMAGE))
