"""What operated models can still do: a part of docs/compatibility.md, which benchmarks/compatibility.py runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from compatibility_cells import COLUMNS, DDP, cell, page
from families import FAMILIES, Family
from features import FEATURES, NEEDS, NotApplicableError, operate
from parallel import distributed
from torch import nn

BY_NAME = {family.name: family for family in FAMILIES}
# A filled socket, a rewritten forward on tokens, one on NHWC, a node behind a child of a Sequential.
SLOW_FEATURES = ("AOTInductor", "fake-quant", *NEEDS)
QUICK_FEATURES = [name for name in FEATURES if name not in SLOW_FEATURES]
MODELS: dict[str, nn.Module] = {}


def operated(name: str) -> tuple[Family, nn.Module]:
    if name not in MODELS:
        MODELS[name] = operate(BY_NAME[name])
    return BY_NAME[name], copy.deepcopy(MODELS[name])


SLOW_PAIRS = [("vit", "torch.compile"), ("mobilenet_v3 (torchvision)", "torch.compile")]


def pairs(*names: str) -> list[Any]:
    """Each model with each feature; compiling a second one of a library is slow, and says little more."""
    every = [(name, feature) for name in names for feature in QUICK_FEATURES]
    return [pytest.param(*pair, marks=pytest.mark.slow if pair in SLOW_PAIRS else ()) for pair in every]


@pytest.mark.parametrize(("name", "feature"), pairs("resnet", "vit"))
def test_feature_of_a_timm_model(name: str, feature: str) -> None:
    FEATURES[feature](*operated(name))


@pytest.mark.parametrize(("name", "feature"), pairs("squeezenet (torchvision)", "mobilenet_v3 (torchvision)"))
def test_feature_of_a_torchvision_model(name: str, feature: str) -> None:
    if feature in ("features_only", "forward_intermediates"):
        with pytest.raises(NotApplicableError, match="timm only"):
            FEATURES[feature](*operated(name))
        return
    FEATURES[feature](*operated(name))


@pytest.mark.parametrize("feature", ["torch.export", "torch.save", "FX re-trace", "forward_intermediates"])
@pytest.mark.parametrize("name", ["swin", "convnext", "starnet", "densenet"])
def test_feature_of_another_layout(name: str, feature: str) -> None:
    FEATURES[feature](*operated(name))


@pytest.mark.parametrize("feature", NEEDS)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_what_other_packages_make_of_it(name: str, feature: str) -> None:
    for package in NEEDS[feature]:
        pytest.importorskip(package)
    FEATURES[feature](*operated(name))


@pytest.mark.slow
def test_compiled_ahead_of_time_the_numbers_are_the_same() -> None:
    FEATURES["AOTInductor"](*operated("squeezenet (torchvision)"))


def test_guards_on_sizes_let_jit_trace_through() -> None:
    """TinyViT branches on sizes, which torch.jit.trace hands out as tensors."""
    FEATURES["torch.jit.trace"](*operated("tiny_vit"))


def test_fake_quantisation() -> None:
    FEATURES["fake-quant"](*operated("resnet"))


def test_two_processes_train_one_model() -> None:
    assert distributed([BY_NAME["resnet"]]) == {"resnet": ""}


def test_cell_says_whose_fault_a_failure_is(monkeypatch: pytest.MonkeyPatch) -> None:
    family, model = operated("resnet")

    def ours(family: Family, model: nn.Module) -> None:
        if "_sesurgery_history" in vars(model):
            raise ValueError("ours\nsecond line")

    def anybody(family: Family, model: nn.Module) -> None:
        raise ValueError("anybody's")

    monkeypatch.setitem(FEATURES, "ours", ours)
    monkeypatch.setitem(FEATURES, "anybody", anybody)
    assert cell(family, "ours", model) == ("no", "ValueError: ours")
    assert cell(family, "anybody", model) == ("neither", "ValueError: anybody's")
    assert cell(family, "EMA", model) == ("yes", "")


def test_page_gives_every_no_a_reason() -> None:
    cells: dict[str, Any] = dict.fromkeys(COLUMNS, ("yes", ""))
    cells["ONNX"], cells["EMA"], cells[DDP] = ("no", "A: b"), ("absent", "timm only"), ("neither", "C: d")
    text = page({"resnet": cells, "vit": cells})
    assert text.count("no [1]") == 2
    assert text.count("orig. [2]") == 2
    assert "1. A: b\n2. (original) C: d\n" in text
    assert f"yes: {2 * (len(COLUMNS) - 3)} of {2 * len(COLUMNS)} cells" in text
