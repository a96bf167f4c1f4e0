"""Replacing activations, norms, attention and whole layers."""

from __future__ import annotations

import copy

import pytest
import torch
from checks import check_operated, reasons, replaced, rule
from networks import Block, Gated, Net, X
from timm.layers import BatchNormAct2d
from torch import nn

import sesurgery
from sesurgery.errors import NothingMatchedError
from sesurgery.plans import Plan


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = BatchNormAct2d(8, act_layer=nn.SiLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bn(self.conv(x))


def test_every_activation_of_the_blocks_changes() -> None:
    net = Net(Block(8), Block(8))
    surgery = replaced(net, "activation", activation="silu")
    assert [edit.path for edit in surgery.plan.edits] == ["blocks.0.act", "blocks.1.act"]
    assert all(type(surgery.model.get_submodule(edit.path)) is nn.SiLU for edit in surgery.plan.edits)
    assert surgery.plan.edits[0].notes == (
        "the function changes: another activation",
        "called 2 times in one forward: exchanged once",
    )
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))
    assert "it is a SiLU already" in reasons(surgery.model, "activation", activation="silu")


def test_a_shared_activation_changes_everywhere() -> None:
    net = Net(Block(8), Block(8))
    net.blocks[1].act = net.blocks[0].act  # type: ignore[index]
    surgery = replaced(net, "activation", activation="gelu")
    assert [type(block.act).__name__ for block in surgery.model.blocks] == ["GELU", "GELU"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("norm", "cls"), [("group", "GroupNorm"), ("layer", "LayerNorm2d"), ("instance", "InstanceNorm2d")]
)
def test_norms_change_and_keep_their_affine_weights(norm: str, cls: str) -> None:
    net = Net(Block(8), Block(8))
    nn.init.uniform_(net.get_submodule("blocks.0.bn1").weight)  # type: ignore[arg-type]
    surgery = replaced(net, "norm", norm=norm)
    new = surgery.model.get_submodule("blocks.0.bn1")
    assert type(new).__name__ == cls
    assert torch.equal(new.weight, net.get_submodule("blocks.0.bn1").weight)  # type: ignore[arg-type]
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))
    assert "already" in reasons(surgery.model, "norm", norm=norm)


def test_a_norm_that_holds_its_activation_gives_it_on() -> None:
    net = Net(Held(), Held())
    surgery = replaced(net, "norm", norm="group")
    kinds = [type(child).__name__ for child in surgery.model.get_submodule("blocks.0.bn").children()]
    assert kinds == ["GroupNorm", "SiLU"]
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))
    acts = replaced(net, "activation", activation="relu")
    assert [edit.path for edit in acts.plan.edits] == ["blocks.0.bn.act", "blocks.1.bn.act"]


def test_existing_attention_becomes_another_one() -> None:
    surgery = sesurgery.apply("timm:seresnet18", "swap-attention", input_size="3,64,64")
    assert len(surgery.plan.edits) == 8
    assert {edit.path for edit in surgery.plan.edits} >= {"layer1.0.se", "layer4.1.se"}
    assert all(type(surgery.model.get_submodule(edit.path)).__name__ == "EcaModule" for edit in surgery.plan.edits)
    with pytest.raises(NothingMatchedError, match="already has attention: eca"):
        sesurgery.apply(surgery.model, "swap-attention", input_size="3,64,64")
    original = sesurgery.revert(copy.deepcopy(surgery.model))
    check_operated(original, surgery.model, torch.randn(2, 3, 64, 64))


def test_a_gate_written_in_a_forward_becomes_a_module() -> None:
    net = Net(Gated(8), Gated(8))
    surgery = sesurgery.apply(net, "swap-attention", example_input=X, module="se", reduction=2)
    assert [edit.path for edit in surgery.plan.edits] == ["blocks.0.se", "blocks.1.se"]
    assert surgery.after.params - surgery.before.params == sum(edit.params for edit in surgery.plan.edits)
    assert surgery.after.macs - surgery.before.macs == sum(edit.macs for edit in surgery.plan.edits)
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))
    again = sesurgery.apply(net, Plan.from_json(surgery.plan.to_json()), example_input=X)
    assert list(again.model.state_dict()) == list(surgery.model.state_dict())


def test_other_nodes_in_a_convolutions_place_need_its_shape() -> None:
    surgery = replaced(Net(Block(8), Block(8)), "spatial conv", module="lambda", kernel_size=3)
    assert {edit.module for edit in surgery.plan.edits} == {"lambda"}
    strided = sesurgery.plan("torchvision:shufflenet_v2_x1_0", rule(replace={"module": "se"}, at="depthwise conv"))
    assert len(strided.edits) == 13
    assert {skip.reason for skip in strided.skipped} == {"a se keeps the shape, and this convolution changes it"}


def test_options_are_plain_data(shufflenet: nn.Module) -> None:
    for recipe in ("shufflenet-k5", "shufflenet-sk", "shufflenet-csp", "shufflenet-liteconv"):
        plan = sesurgery.plan(shufflenet, recipe)
        assert Plan.from_json(plan.to_json()) == plan
