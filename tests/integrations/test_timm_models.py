"""Operated models by name in timm: created, trained and exported as timm's scripts do it with its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import lively
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, reparameterize_model
from torch import nn

import sesurgery
from sesurgery.errors import InputError, RecipeError

BASE = "test_resnet"
# RepVggDw.fuse() makes one convolution of all that is in it.
OUTSIDE = {"rules": [{"insert": {"module": "se"}, "at": "before residual add", "where": {"not": {"type": "RepVggDw"}}}]}


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    sesurgery.register("test_resnet_se", base=BASE, recipe="standard", stages="3-4")
    sesurgery.register("repvit_se", base="repvit_m1", recipe=OUTSIDE)


def layers(model: nn.Module) -> list[str]:
    return [path for path, part in model.named_modules() if path.endswith(".se") and list(part.parameters())]


def test_a_registered_model_is_the_base_with_the_recipe() -> None:
    model = timm.create_model("test_resnet_se", num_classes=7, in_chans=1)
    surgery = sesurgery.apply(BASE, "standard", stages="3-4", model_args={"num_classes": 7, "in_chans": 1})
    assert list(model.state_dict()) == list(surgery.model.state_dict())
    assert layers(model) == layers(surgery.model) != []
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert "test_resnet_se" in timm.list_models("test_resnet*")
    assert [name.partition(".")[2] for name in timm.list_pretrained("test_resnet_se.*")] == ["r160_in1k"]


def test_the_old_layers_take_the_bases_pretrained_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = lively(timm.create_model(BASE))
    torch.save(base.state_dict(), tmp_path / "base.pth")
    overlay = {"file": str(tmp_path / "base.pth")}
    for name in ("test_resnet_se", "test_resnet_se.r160_in1k"):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        state = model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())
    torch.save(model.state_dict(), tmp_path / "operated.pth")
    again = timm.create_model("test_resnet_se", checkpoint_path=str(tmp_path / "operated.pth"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())


def test_features_have_the_layers() -> None:
    whole = lively(timm.create_model("test_resnet_se"))
    features = timm.create_model("test_resnet_se", features_only=True, out_indices=(2, 4))
    features.load_state_dict(whole.state_dict(), strict=False)
    assert layers(features) == layers(whole)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = features.eval()(image)
        assert torch.equal(last[-1], whole.forward_features(image))
    assert [tuple(each.shape) for each in last] == [(1, *each) for each in ((48, 8, 8), (96, 2, 2))]


def test_it_is_saved_as_its_base_and_its_plan(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet_se", num_classes=7).eval()
    sesurgery.save(model, tmp_path / "a")
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(sesurgery.load(tmp_path / "a")(image), model(image))


def test_for_the_hub_it_goes_by_its_own_name(tmp_path: Path) -> None:
    model = lively(timm.create_model("test_resnet_se", num_classes=7))
    timm.models.save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True)
    state = features.state_dict()
    assert layers(features) == layers(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if key in state)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5)
    assert torch.equal(other.layer3[0].se.fc1.weight, model.layer3[0].se.fc1.weight)
    assert timm.create_model(BASE).pretrained_cfg["architecture"] == BASE


def test_an_average_of_weights_follows() -> None:
    model = timm.create_model("test_resnet_se")
    average = ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(1)
    before = copy.deepcopy(average.module.state_dict())
    average.update(model)
    path = f"{layers(model)[0]}.fc1.weight"
    assert torch.allclose(average.module.state_dict()[path], before[path] + 0.5)


def test_new_parameters_decay_with_their_block() -> None:
    model = timm.create_model("test_resnet_se")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(scales) == len(named)
    for path in layers(model):
        block = path.rpartition(".")[0]
        near = {scales[id(p)] for name, p in named.items() if name.startswith(f"{block}.")}
        assert len(near) == 1


def test_reparameterized_the_layers_stay_alive() -> None:
    model = lively(timm.create_model("repvit_se", depth=(1, 1, 1, 1)))
    plain = lively(timm.create_model("repvit_m1", depth=(1, 1, 1, 1)))
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    image = torch.randn(1, 3, 64, 64)
    fused = reparameterize_model(model)
    with torch.no_grad():
        assert torch.allclose(fused(image), model(image), atol=1e-4)
        assert not torch.allclose(fused(image), plain(image), atol=1e-3)
    assert sesurgery.verify(fused, example_input=image)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="timm has a model of this name"):
        sesurgery.register("resnet50", base="resnet50", recipe="standard")
    with pytest.raises(InputError, match="did you mean"):
        sesurgery.register("mine", base="resnet5O", recipe="standard")
    with pytest.raises(RecipeError):
        sesurgery.register("mine", base=BASE, recipe={"rules": [{"insert": {"module": "sse"}}]})
    with pytest.raises(InputError, match="no name of a model"):
        sesurgery.register("a.b", base=BASE, recipe="standard")
    sesurgery.register("test_resnet_se", base=BASE, recipe="standard", stages="3-4")


def test_features_without_the_stages_say_why() -> None:
    with pytest.raises(InputError, match=r"out of range.*stages 1-3; features_only leaves out what lies behind"):
        timm.create_model("test_resnet_se", features_only=True, out_indices=(1, 3))


def saved(model: nn.Module, folder: Path) -> Any:
    """What the hub would give for what timm saves there."""
    save_for_hf(model, str(folder), safe_serialization=True)
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_what_timm_saves_is_created_with_its_layers_or_by_no_name(tmp_path: Path) -> None:
    sesurgery.register("test_resnet_simam", base=BASE, recipe="standard", module="simam")
    named = timm.create_model("test_resnet_simam", num_classes=3)
    assert len(sesurgery.plans_of(saved(named, tmp_path / "a"))) == 1
    further = sesurgery.apply(named, "se-3x3", module="simam", input_size="64").model
    alone = sesurgery.apply(timm.create_model(BASE), "standard", module="simam", input_size="64").model
    for index, model in enumerate((further, alone)):  # no weight tells of these layers
        with pytest.raises(RuntimeError, match=r"Unknown model .*test_resnet, operated: register it with sesurgery"):
            saved(model, tmp_path / str(index))
    for index, model in enumerate((sesurgery.revert(named), timm.create_model(BASE)), 2):
        assert not sesurgery.plans_of(saved(model, tmp_path / str(index)))


def test_a_name_does_not_take_that_of_something_of_ours() -> None:
    sesurgery.register("zoo", base=BASE, recipe="standard")
    sesurgery.register("test_resnet_after", base=BASE, recipe="standard")
    assert layers(timm.create_model("zoo")) == layers(timm.create_model("test_resnet_after")) != []
    with pytest.raises(InputError, match="is no name of a model"):
        sesurgery.register(3, base=BASE, recipe="standard")  # type: ignore[arg-type]
