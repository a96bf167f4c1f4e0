"""The SENet paper's ResNet-50, by recipe: exact parameter counts, and its own figures within their rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from networks import senet_resnet50
from places import FACTS
from torch import nn

import sesurgery
from sesurgery.plans import Plan

SENET: Mapping[str, Any] = yaml.safe_load((FACTS / "senet.yaml").read_text())
RECIPES = {
    "before_residual_add": "standard",
    "after_residual_add": "post",
    "on_identity_branch": "identity",
    "start_of_residual_branch": "pre",
    "after_spatial_conv": "se-3x3",
}
EXACT = [(placement, stage, count) for placement, counts in SENET["exact"].items() for stage, count in counts.items()]


@pytest.fixture(scope="module")
def paper() -> nn.Module:
    return senet_resnet50()


def figures(plan: Plan) -> tuple[float, float]:
    assert plan.after is not None
    return plan.after.params / 1e6, plan.after.macs / 1e9


def assert_published(plan: Plan, published: Mapping[str, float]) -> None:
    params, gmacs = figures(plan)
    assert params == pytest.approx(published["params_m"], abs=0.1)
    if "gmacs" in published:
        assert gmacs == pytest.approx(published["gmacs"], abs=0.01)


def test_every_placement_is_tried() -> None:
    assert set(RECIPES) == set(SENET["exact"])


@pytest.mark.parametrize(("placement", "stage", "count"), EXACT)
def test_exact_parameters(placement: str, stage: int | str, count: int) -> None:
    plan = sesurgery.plan("resnet50", RECIPES[placement], stages=stage)
    assert plan.before is not None
    assert plan.after is not None
    assert plan.before.params == 25_557_032
    assert plan.after.params - plan.before.params == count
    assert sum(edit.params for edit in plan.edits) == count
    assert {edit.stage for edit in plan.edits} == ({1, 2, 3, 4} if stage == "all" else {stage})


def test_baseline(paper: nn.Module) -> None:
    plan = sesurgery.plan(paper, "standard")
    assert plan.before is not None
    assert plan.before.params / 1e6 == pytest.approx(SENET["baseline"]["params_m"], abs=0.1)
    assert plan.before.macs / 1e9 == pytest.approx(SENET["baseline"]["gmacs"], abs=0.01)


@pytest.mark.parametrize("reduction", SENET["reduction"])
def test_reduction(paper: nn.Module, reduction: int) -> None:
    assert_published(sesurgery.plan(paper, "standard", reduction=reduction), SENET["reduction"][reduction])


@pytest.mark.parametrize("stage", SENET["paper_stage"])
def test_stage_of_the_paper(paper: nn.Module, stage: int | str) -> None:
    ours = stage if stage == "all" else int(stage) - 1
    assert_published(sesurgery.plan(paper, "standard", stages=ours), SENET["paper_stage"][stage])


def test_after_the_spatial_convolution(paper: nn.Module) -> None:
    assert_published(sesurgery.plan(paper, "se-3x3"), SENET["after_3x3"])


def test_without_squeeze(paper: nn.Module) -> None:
    plan = sesurgery.plan(paper, "standard", squeeze="none")
    assert_published(plan, SENET["no_squeeze"])
    assert figures(plan)[1] > figures(sesurgery.plan(paper, "standard"))[1] + 0.3
