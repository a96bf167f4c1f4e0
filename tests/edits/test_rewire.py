"""Rewiring a stage into a cross-stage partial one."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from checks import check_operated, rule, run, same_weights
from networks import Block, Net, X
from torch import nn
from torchvision.models import shufflenet_v2_x1_0

import sesurgery
from sesurgery.errors import NothingMatchedError, StalePlanError, Unfit
from sesurgery.models import zoo
from sesurgery.plans import Plan
from sesurgery.substitutes.csp_stage import CSPStage
from sesurgery.substitutes.narrower_block import narrowed


def csp(**options: Any) -> dict[str, object]:
    return rule(rewire={"to": "csp", **options}, at="stage")


def rewired(net: nn.Module, **options: Any) -> sesurgery.Surgery:
    return sesurgery.apply(net, csp(**options), example_input=X)


def reason(net: nn.Module, **options: Any) -> str:
    kept = copy.deepcopy(net)
    with pytest.raises(NothingMatchedError) as caught:
        rewired(net, **options)
    assert same_weights(net, kept)
    return str(caught.value)


def test_shufflenet_csp_prints_its_own_figures() -> None:
    plan = sesurgery.plan("torchvision:shufflenet_v2_x1_0", "shufflenet-csp", model_args={"num_classes": 10})
    assert plan.before is not None
    assert plan.after is not None
    # The rework published 0.924 M and left its details open.
    assert (plan.before.params, plan.after.params) == (1_263_854, 852_605)
    assert [edit.path for edit in plan.edits] == ["stage2.1", "stage3.1", "stage4.1"]
    assert sum(edit.params for edit in plan.edits) == plan.after.params - plan.before.params
    assert sum(edit.macs for edit in plan.edits) == plan.after.macs - plan.before.macs


def test_a_stage_of_shufflenet_works_and_is_undone() -> None:
    net = shufflenet_v2_x1_0(weights=None, num_classes=10).eval()
    surgery = sesurgery.apply(net, "shufflenet-csp")
    stage = surgery.model.get_submodule("stage2.1")
    assert isinstance(stage, CSPStage)
    assert (stage.widths, len(stage.blocks)) == ((58, 58), 3)
    assert type(surgery.model.get_submodule("stage2.3")) is nn.Identity
    old, new = net.get_submodule("stage2.1.branch2.0"), stage.get_submodule("blocks.0.branch2.0")
    assert torch.equal(new.weight, old.weight[:29, :29])  # type: ignore[index]
    assert same_weights(sesurgery.revert(copy.deepcopy(surgery.model)), net)
    check_operated(net, surgery.model, torch.randn(1, 3, 64, 64))


def test_half_goes_around() -> None:
    net = Net(Block(8), Block(8))
    surgery = rewired(net)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(run(surgery.model.get_submodule("blocks"), x)[:, 4:], x[:, 4:])
    inner = run(surgery.model.get_submodule("blocks.0.blocks"), x[:, :4])
    assert torch.equal(run(surgery.model.get_submodule("blocks"), x)[:, :4], inner)
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))


class Preactivated(nn.Module):
    """Its first layer overwrites what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act, self.conv = nn.SiLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(x)
        return y + self.conv(y)


def test_blocks_may_begin_in_place() -> None:
    net = Net(Preactivated(8), Preactivated(8))
    check_operated(net, rewired(net).model, torch.randn(2, 3, 32, 32))


def test_same_width_keeps_the_blocks() -> None:
    net = Net(Block(8), Block(8))
    surgery = rewired(net, rebuild="same width", split=0.25)
    stage = surgery.model.get_submodule("blocks.0")
    assert isinstance(stage, CSPStage)
    assert stage.widths == (2, 6)
    assert same_weights(stage.blocks, net.blocks)
    assert surgery.plan.edits[0].notes == ("fresh 1x1 convolutions lead in and out",)
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("timm:resnet18", 4),
        ("timm:resnet50", 4),
        ("torchvision:resnet50", 4),
        ("timm:resnext50_32x4d", 4),
        ("torchvision:mobilenet_v2", 5),
        ("timm:mobilenetv2_100", 5),
        ("timm:seresnet50", 4),
    ],
)
def test_stages_of_other_families(name: str, count: int) -> None:
    plan = sesurgery.plan(name, "shufflenet-csp")
    assert plan.before is not None
    assert plan.after is not None
    assert len(plan.edits) == count
    assert {edit.module for edit in plan.edits} == {"CSPStage"}
    assert sum(edit.params for edit in plan.edits) == plan.after.params - plan.before.params < 0
    assert sum(edit.macs for edit in plan.edits) == plan.after.macs - plan.before.macs < 0


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:mobilenet_v2"])
def test_they_run_and_are_undone(name: str) -> None:
    net = zoo.create(zoo.resolve(name)).eval()
    surgery = sesurgery.apply(net, "shufflenet-csp", stages="last2")
    assert same_weights(sesurgery.revert(copy.deepcopy(surgery.model)), net)
    check_operated(net, surgery.model, torch.randn(1, 3, 64, 64))


def test_a_plan_replays_and_goes_stale() -> None:
    plan = Plan.from_json(rewired(Net(Block(8), Block(8))).plan.to_json())
    again = sesurgery.apply(Net(Block(8), Block(8)), plan, example_input=X)
    assert isinstance(again.model.get_submodule("blocks.0"), CSPStage)
    with pytest.raises(StalePlanError):
        sesurgery.apply(Net(Block(4), Block(4), width=4), plan, example_input=X)


class Fixed(nn.Module):
    """A block whose forward knows its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x).view(-1, self.width, *x.shape[2:])


class Bilinear(nn.Module):
    """A block with a weight of a kind of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Parameter(torch.eye(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.einsum("nchw,cd->ndhw", self.conv(x), self.mix)


def test_what_cannot_be_rewired_is_refused() -> None:
    assert "the stage has one block only" in reason(Net(nn.Sequential(Block(8))))
    assert "7 channels" in reason(Net(Block(7), Block(7), width=7))
    assert "0.3 of 8 channels is no whole number" in reason(Net(Block(8), Block(8)), split=0.3)
    assert "a narrower Fixed does not run" in reason(Net(Fixed(8), Fixed(8)))
    assert "a Bilinear holds weights (mix) that cannot be narrowed" in reason(Net(Bilinear(8), Bilinear(8)))
    block = Block(8)
    assert "the stage has one block only" in reason(Net(block, block))
    once = rewired(Net(Block(8), Block(8)))
    assert "it is a cross-stage partial stage already" in reason(once.model)


@pytest.mark.parametrize(
    ("groups", "kept"), [(1, 1), (2, 1), (3, 3), (12, 6)], ids=["dense", "fewer groups", "narrower groups", "depthwise"]
)
def test_grouped_convolutions_are_narrowed_by_groups_where_they_can(groups: int, kept: int) -> None:
    conv = narrowed(nn.Conv2d(12, 12, 3, padding=1, groups=groups), Fraction(1, 2))
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (6, 6, kept)
    assert conv(torch.randn(1, 6, 5, 5)).shape == (1, 6, 5, 5)


def test_norms_and_linear_layers_are_narrowed() -> None:
    for layer, x in (
        (nn.GroupNorm(2, 8), torch.randn(2, 4, 3, 3)),
        (nn.LayerNorm(8), torch.randn(2, 3, 4)),
        (nn.BatchNorm2d(8), torch.randn(2, 4, 3, 3)),
        (nn.Linear(8, 8), torch.randn(2, 4)),
        (nn.PReLU(8), torch.randn(2, 4, 3, 3)),
        (nn.PReLU(), torch.randn(2, 4, 3, 3)),
    ):
        assert narrowed(layer, Fraction(1, 2))(x).shape == x.shape
    with pytest.raises(Unfit, match="more than the channels"):
        narrowed(nn.LayerNorm([8, 4]), Fraction(1, 2))
