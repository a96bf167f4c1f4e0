"""Plans as data: read back, replayed on another instance, refused where the model is another."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from checks import everything, recipe, se
from networks import SIZE, small_resnet
from torch import nn

import sesurgery
from sesurgery.plans import Plan


def test_plan_survives_json_and_gives_the_same_model() -> None:
    made = sesurgery.plan(
        small_resnet(), recipe(se("before residual add"), se("start of residual branch")), input_size=SIZE
    )
    again = Plan.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    torch.manual_seed(0)
    direct = sesurgery.apply(small_resnet(), made, input_size=SIZE)
    torch.manual_seed(0)
    replayed = sesurgery.apply(small_resnet(), again, input_size=SIZE)
    image = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(direct.model.eval()(image), replayed.model.eval()(image))
    assert list(direct.model.state_dict()) == list(replayed.model.state_dict())


def test_replay_equals_apply_on_another_instance() -> None:
    first = sesurgery.apply(small_resnet(), "post", input_size=SIZE)
    second = sesurgery.apply(small_resnet(), first.plan, input_size=SIZE)
    second.model.load_state_dict(first.model.state_dict(), strict=True)
    image = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(first.model(image), second.model(image))
    assert second.after == first.after


def without(model: nn.Module, path: str) -> nn.Module:
    parent, _, name = path.rpartition(".")
    delattr(model.get_submodule(parent), name)
    return model


def exchanged(model: nn.Module, path: str, child: nn.Module) -> nn.Module:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, child)
    return model


@pytest.mark.parametrize(
    "other",
    [
        lambda: timm.create_model("resnet50", num_classes=10, layers=(1, 2, 1, 1), channels=(16, 24, 32, 48)),
        lambda: small_resnet(layers=(1, 1, 1, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)),
        lambda: small_resnet(channels=(32, 48, 64, 96)),
        lambda: without(small_resnet(), "layer1.0.bn2"),
        lambda: without(small_resnet(), "layer4.0"),
        lambda: exchanged(small_resnet(), "layer4.0", nn.Conv2d(64, 96, 1, stride=2)),
    ],
    ids=["other blocks", "fewer blocks", "another network", "another width", "no norm", "no block", "another class"],
)
@pytest.mark.parametrize("name", ["standard", "post", "eca"])
def test_plan_for_another_network_is_stale(name: str, other: Any) -> None:
    module = "eca" if name == "eca" else None
    made = sesurgery.plan(small_resnet(), "standard" if module else name, module=module, input_size=SIZE)
    model = other()
    before = everything(model)
    with pytest.raises(sesurgery.StalePlanError, match="plan again"):
        sesurgery.apply(model, made, inplace=True, input_size=SIZE)
    assert everything(model) == before


def test_finished_plan_takes_no_options() -> None:
    made = sesurgery.plan(small_resnet(), "standard", input_size=SIZE)
    with pytest.raises(sesurgery.InputError, match="plan again"):
        sesurgery.apply(small_resnet(), made, reduction=8, input_size=SIZE)
