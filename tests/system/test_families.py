"""Every shipped recipe on a small member of each family: it operates, faithfully and reversibly, or says why not."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from networks import TOYS
from torch import Tensor, nn

import sesurgery
from sesurgery.recipe.recipe import load_recipe, recipe_names

RECIPES = {name: load_recipe(name) for name in recipe_names()}
_RESIDUAL = "backbone-end identity post pre standard"
_INSIDE = "regnety se-3x3 yolov5-c3 yolov5-c3-second"
# Of the recipes named here, those that find a place; the others of them have none in that family.
OPERATES: dict[str, frozenset[str]] = {
    family: frozenset(names.split())
    for family, names in {
        "resnet18": f"{_RESIDUAL} {_INSIDE} effective-se",
        "resnet50": f"{_RESIDUAL} {_INSIDE} effective-se",
        "mobilenet_v2": f"{_RESIDUAL} {_INSIDE} effective-se mbconv mobilenetv3 mobilenetv3-end plain pp-lcnet",
        # It has SE behind its depthwise convolutions already.
        "efficientnet_b0": f"{_RESIDUAL} effective-se mobilenetv3-end plain yolov5-c3",
        "regnet": f"{_RESIDUAL} {_INSIDE} effective-se",
        "convnext": f"{_RESIDUAL} {_INSIDE} effective-se mbconv mobilenetv3-end pp-lcnet",
        "vit": _RESIDUAL,
        "swin": _RESIDUAL,
        "densenet": "backbone-end concat plain regnety se-3x3",
        "shufflenet": "backbone-end concat mbconv mobilenetv3-end plain pp-lcnet regnety se-3x3 shufflenet-se",
        "r3d_18": f"{_RESIDUAL} {_INSIDE}",
        "branching": f"{_RESIDUAL} {_INSIDE} effective-se",
    }.items()
}
NAMED = sorted({"inception"}.union(*OPERATES.values()) & RECIPES.keys())
CASES = [(family, recipe) for family in TOYS for recipe in NAMED if recipe in OPERATES[family]]
REFUSALS = [(family, recipe) for family in TOYS for recipe in NAMED if recipe not in OPERATES[family]]
# Structural recipes, and those that came later.
OTHERS = [(family, recipe) for family in TOYS for recipe in RECIPES if recipe not in NAMED]
EXPORTED = {
    "resnet18": "pre",
    "resnet50": "standard",
    "mobilenet_v2": "mbconv",
    "efficientnet_b0": "post",
    "regnet": "regnety",
    "convnext": "standard",
    "vit": "standard",
    "swin": "identity",
    "densenet": "plain",
    "shufflenet": "shufflenet-se",
    "r3d_18": "se-3x3",
    "branching": "standard",
}


class Subject:
    """A model, an image for it and what it makes of it."""

    def __init__(self, family: str) -> None:
        self.original = TOYS[family].model()
        self.image = TOYS[family].image()
        with torch.no_grad():
            self.output = self.original(self.image)

    def copied(self) -> nn.Module:
        return copy.deepcopy(self.original)

    def run(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model.eval()(self.image)


_SUBJECTS: dict[str, Subject] = {}


def subject_of(family: str) -> Subject:
    if family not in _SUBJECTS:
        _SUBJECTS[family] = Subject(family)
    return _SUBJECTS[family]


@pytest.fixture(scope="module", autouse=True)
def _release() -> Any:
    yield
    _SUBJECTS.clear()


def structure(model: nn.Module) -> list[Any]:
    """Class, attributes and children of every module, in their order."""
    return [
        (
            path,
            type(module),
            list(module.__dict__),
            {key: value for key, value in module.__dict__.items() if isinstance(value, (bool, int, float, str, tuple))},
            list(module._modules),
            list(module._parameters),
            list(module._buffers),
        )
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def assert_same_state(model: nn.Module, original: nn.Module, exact: bool) -> None:
    found, wanted = model.state_dict(), original.state_dict()
    assert [key for key in found if key in wanted] == list(wanted) if exact else wanted.keys() <= found.keys()
    assert not exact or list(found) == list(wanted)
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def assert_learns(surgery: sesurgery.Surgery, image: Tensor, training: bool) -> None:
    """Forward and backward; every new parameter hears of it."""
    model = surgery.model.train(training)
    output = model(image)
    assert torch.isfinite(output).all()
    # Not its sum: a LayerNorm at the end would hand no gradient back.
    output.square().mul(torch.linspace(0.5, 1.5, output.shape[-1])).sum().backward()
    for parameter in surgery.new_parameters():
        assert parameter.grad is not None
    model.zero_grad(set_to_none=True)
    model.eval()


def assert_reverts(model: nn.Module, subject: Subject) -> None:
    assert sesurgery.revert(model) is model
    assert structure(model) == structure(subject.original)
    assert_same_state(model, subject.original, exact=True)
    assert torch.equal(subject.run(model), subject.output)


def pickled(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    pickle.dump(model, buffer)
    return pickle.loads(buffer.getvalue())


def assert_travels_and_reverts(surgery: sesurgery.Surgery, subject: Subject) -> None:
    """What holds for every operated model, structural edits too."""
    model, kind = surgery.model, type(subject.original)
    assert isinstance(model, kind)
    assert type(model) is kind or any(edit.host == "" for edit in surgery.plan.edits)
    operated = subject.run(model)
    assert torch.equal(subject.run(copy.deepcopy(model)), operated)
    assert torch.equal(subject.run(pickled(model)), operated)
    assert_learns(surgery, subject.image, training=False)
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    assert_learns(surgery, subject.image, training=True)
    model.load_state_dict(statistics)
    assert_reverts(model, subject)


@pytest.mark.parametrize(("family", "recipe"), CASES)
def test_identity_changes_no_bit_and_the_model_is_still_what_it_was(family: str, recipe: str) -> None:
    subject = subject_of(family)
    model = subject.copied()
    surgery = sesurgery.apply(model, recipe, inplace=True, example_input=subject.image, init="identity")
    assert torch.equal(subject.run(model), subject.output)
    assert_same_state(model, subject.original, exact=False)
    for parameter in surgery.new_parameters():
        nn.init.normal_(parameter)
    assert not torch.equal(subject.run(model), subject.output), "the nodes are not in the way of the activations"
    assert_travels_and_reverts(surgery, subject)


@pytest.mark.parametrize(("family", "recipe"), REFUSALS)
def test_refusal_says_why(family: str, recipe: str) -> None:
    subject = subject_of(family)
    before = structure(subject.original)
    # A recipe may ask for a stage that a shallow network does not have, which is another error with its own remedy.
    with pytest.raises(sesurgery.SurgeryError) as caught:
        sesurgery.apply(subject.original, recipe, inplace=True, example_input=subject.image)
    text = str(caught.value)
    if not isinstance(caught.value, sesurgery.NothingMatchedError):
        assert "out of range" in text
    else:
        assert f'"{recipe}" matched nothing' in text
        assert "nearest miss" in text or "the model has" in text
    assert structure(subject.original) == before


@pytest.mark.parametrize(("family", "recipe"), OTHERS)
def test_other_recipe_operates_or_says_why(family: str, recipe: str) -> None:
    subject = subject_of(family)
    model = subject.copied()
    reason = ""
    try:
        surgery = sesurgery.apply(model, recipe, inplace=True, example_input=subject.image)
    except sesurgery.SurgeryError as refusal:
        reason = str(refusal)
    if reason:
        assert len(reason) > 20
        assert structure(model) == structure(subject.original)
        assert_same_state(model, subject.original, exact=True)
        return
    assert_travels_and_reverts(surgery, subject)


@pytest.mark.parametrize(("family", "recipe"), EXPORTED.items())
def test_operated_model_exports(family: str, recipe: str) -> None:
    subject = subject_of(family)
    surgery = sesurgery.apply(subject.copied(), recipe, inplace=True, example_input=subject.image)
    assert not torch.equal(subject.run(surgery.model), subject.output)
    assert_same_state(surgery.model, subject.original, exact=False)
    assert_learns(surgery, subject.image, training=True)
    # A branch on data cannot be exported; the part without one can.
    part, image = surgery.model, subject.image
    if family == "branching":
        part, image = part.first, torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        program = torch.export.export(part.eval(), (image,), strict=False)
        assert torch.equal(program.module()(image), part(image))
