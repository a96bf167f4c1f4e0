"""Strip a model of its attention, operate on it with the matching recipe: the native model again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sesurgery
from sesurgery.models import zoo
from sesurgery.plans import Plan

# timm has its own module for each family, torchvision one for all of them.
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    ("timm:lcnet_100", "pp-lcnet", {}, 2),
    ("timm:mobilenetv3_large_100", "mobilenetv3", {}, 8),
    ("timm:efficientnet_b0", "mbconv", {}, 16),
    ("timm:regnety_002", "regnety", {}, 13),
    ("timm:seresnet50", "standard", {}, 16),
    ("timm:ecaresnet26t", "standard", {"module": "eca"}, 8),
    ("torchvision:mobilenet_v3_large", "mobilenetv3", {"module": "se_torchvision"}, 8),
    ("torchvision:efficientnet_b0", "mbconv", {"module": "se_torchvision"}, 16),
    ("torchvision:regnet_y_400mf", "regnety", {"module": "se_torchvision"}, 16),
]


@pytest.mark.parametrize(("name", "recipe", "options", "count"), CASES, ids=[case[0] for case in CASES])
def test_strip_and_operate_gives_the_native_model(name: str, recipe: str, options: dict[str, Any], count: int) -> None:
    native = zoo.create(zoo.resolve(name)).eval()
    with torch.no_grad():
        for parameter in native.parameters():
            # Fresh norms are all alike; a mix-up must show.
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    stripped = sesurgery.apply(native, "strip-attention")
    assert len(stripped.plan.edits) == count
    assert not [merge for merge in sesurgery.inspect(stripped.model).merges if merge.kind == "gate"]
    back = sesurgery.apply(stripped.model, recipe, **options)
    wanted, found = native.state_dict(), back.model.state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    assert back.after.params == stripped.before.params == sum(parameter.numel() for parameter in native.parameters())
    back.model.load_state_dict(wanted, strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back.model.eval()(x), native(x))
    for operated in (stripped.model, back.model):
        reverted = sesurgery.revert(operated).state_dict()
        assert list(reverted) == list(wanted)
        assert all(torch.equal(reverted[key], wanted[key]) for key in wanted)


def test_rules_of_several_kinds_compose() -> None:
    rules = [
        {"remove": {}, "at": "attention"},
        {"replace": {"kernel": 5}, "at": "spatial conv", "where": {"stages": "3"}},
        {"rewire": {"to": "csp"}, "at": "stage", "where": {"stages": "4"}},
        {"insert": {"module": "eca"}, "at": "before residual add", "where": {"stages": "last2"}},
    ]
    native = zoo.create(zoo.resolve("timm:seresnet18")).eval()
    surgery = sesurgery.apply(native, {"rules": rules}, input_size="3,96,96")
    assert [edit.action for edit in surgery.plan.edits] == ["remove"] * 8 + ["replace"] * 4 + ["rewire"] + [
        "insert"
    ] * 4
    x = torch.randn(1, 3, 96, 96)
    again = sesurgery.apply(native, Plan.from_json(surgery.plan.to_json()), input_size="3,96,96")
    assert list(again.model.state_dict()) == list(surgery.model.state_dict())
    with torch.no_grad():
        assert surgery.model.eval()(x).shape == (1, 1000)
        assert torch.equal(sesurgery.revert(surgery.model).eval()(x), native(x))
