"""Replacing convolutions: kernels, dilations, and the weights that stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from checks import check_operated, reasons, replaced, run, same_weights
from networks import Block, Net
from timm.layers import SelectiveKernel, create_conv2d
from timm.layers.std_conv import ScaledStdConv2d
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import sesurgery
from sesurgery.attention.map_attention import SelectiveConv
from sesurgery.errors import InputError, NothingMatchedError, StalePlanError
from sesurgery.models import zoo
from sesurgery.plans import Cost, Plan
from sesurgery.substitutes.convolution import changed, embeds_exactly


def unit(cost: Cost) -> float:
    """The rework's unit of FLOPs, in millions: conv and linear MACs, and 2 per BatchNorm element."""
    macs = sum(cost.items.get(kind, 0) for kind in ("conv", "linear"))
    return (macs + 2 * cost.uncounted.get("batch_norm", 0)) / 1e6


def planned(recipe: str) -> Plan:
    return sesurgery.plan("torchvision:shufflenet_v2_x1_0", recipe, model_args={"num_classes": 10})


@pytest.mark.parametrize(
    ("recipe", "params", "mflops", "edits"),
    [
        ("shufflenet-se", 1406938, 147.93, 12),
        ("shufflenet-k5", 1303214, 155.18, 19),
        ("shufflenet-liteconv", 923278, 104.77, 16),
    ],
)
def test_the_rework_of_shufflenet_is_reproduced(recipe: str, params: int, mflops: float, edits: int) -> None:
    plan = planned(recipe)
    assert plan.before is not None
    assert plan.after is not None
    assert (plan.before.params, round(unit(plan.before), 2)) == (1263854, 147.79)
    assert (plan.after.params, len(plan.edits)) == (params, edits)
    assert unit(plan.after) == pytest.approx(mflops, abs=0.01)
    assert sum(edit.params for edit in plan.edits) == plan.after.params - plan.before.params
    assert sum(edit.macs for edit in plan.edits) == plan.after.macs - plan.before.macs


def test_k5_adds_its_macs_to_the_last_digit() -> None:
    plan = planned("shufflenet-k5")
    assert plan.after is not None
    assert plan.before is not None
    assert plan.after.macs - plan.before.macs == 7_394_688


def test_shufflenet_sk_prints_its_own_figures() -> None:
    plan = planned("shufflenet-sk")
    assert plan.after is not None
    assert len(plan.edits) == 19
    assert {edit.module for edit in plan.edits} == {"sk"}
    assert plan.after.params == 1_533_210  # the rework published 1.555 M and left its details open


def test_the_reworks_own_selective_kernel_has_its_published_figures() -> None:
    """Its tables cut what follows the second digit: 155.189 MFLOPs of k5 stand there as 155.18."""
    plan = planned("shufflenet-skconv")
    assert plan.after is not None
    assert len(plan.edits) == 13
    assert plan.after.params == 1_555_052
    assert int(100 * unit(plan.after)) == 15_234
    apart = sesurgery.plan(
        "torchvision:shufflenet_v2_x1_0", "shufflenet-skconv", model_args={"num_classes": 10}, shared=False
    )
    assert apart.after is not None
    assert (apart.after.params, round(unit(apart.after), 2)) == (1_690_134, 152.48)


def test_the_softmax_of_the_rework_runs_over_all_weights() -> None:
    layer = SelectiveConv(4, 4, 3, groups=4, softmax="all").eval()
    x = torch.randn(2, 4, 6, 6)
    one, two = (path(x) for path in layer.paths)
    weights = layer.fc2(layer.fc1((one + two).mean((2, 3)))).softmax(1)
    expected = weights[:, :4, None, None] * one + weights[:, 4:, None, None] * two
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert [type(part).__name__ for part in layer.paths[1]] == ["Conv2d", "BatchNorm2d"]


def test_k5_keeps_the_function(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-k5")
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(run(surgery.model, x), run(shufflenet, x), atol=1e-5)
    conv = surgery.model.get_submodule("stage2.1.branch2.3")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.padding) == ((5, 5), (2, 2))
    old = shufflenet.get_submodule("stage2.1.branch2.3")
    assert torch.equal(conv.weight[..., 1:4, 1:4], old.weight)  # type: ignore[index]
    assert conv.weight.count_nonzero() == old.weight.count_nonzero()  # type: ignore[operator]
    assert surgery.new_parameters()
    assert not any(edit.notes for edit in surgery.plan.edits)


def test_k5_works_and_is_undone(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-k5")
    assert same_weights(sesurgery.revert(copy.deepcopy(surgery.model)), shufflenet)
    check_operated(shufflenet, surgery.model, torch.randn(1, 3, 32, 32))


def test_a_second_time_there_is_nothing_left_to_do(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-k5")
    with pytest.raises(NothingMatchedError, match="kernel 5, not 3"):
        sesurgery.apply(surgery.model, "shufflenet-k5")


def test_a_plan_replays_from_json_and_refuses_another_network(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-k5")
    plan = Plan.from_json(surgery.plan.to_json())
    again = sesurgery.apply(copy.deepcopy(shufflenet), plan)
    assert same_weights(again.model, surgery.model)
    narrower = zoo.create(zoo.resolve("torchvision:shufflenet_v2_x0_5"))
    kept = copy.deepcopy(narrower)
    with pytest.raises(StalePlanError, match="the forward of its host is not the one that the plan was made for"):
        sesurgery.apply(narrower, plan, inplace=True)
    assert same_weights(narrower, kept)


CONVS: dict[str, Any] = {
    "plain": lambda: nn.Conv2d(6, 6, 3, padding=1),
    "bias, groups and stride": lambda: nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3),
    "dilated": lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2),
    "without padding": lambda: nn.Conv2d(6, 6, 3),
    "same": lambda: nn.Conv2d(6, 6, 3, padding="same"),
    "valid": lambda: nn.Conv2d(6, 6, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
    "replicate and same": lambda: nn.Conv2d(6, 6, 3, padding="same", padding_mode="replicate"),
    "pointwise": lambda: nn.Conv2d(6, 6, 1),
    "oblong": lambda: nn.Conv2d(6, 6, (3, 1), padding=(1, 0)),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_embedding_keeps_the_function_of_every_kind_of_convolution(name: str, kernel: int) -> None:
    old = CONVS[name]()
    step = old.dilation[0]
    new = changed(old, (kernel, kernel), (step, step))
    x = torch.randn(2, 6, 17, 19)
    assert embeds_exactly(old, (kernel, kernel), (step, step))
    assert new(x).shape == old(x).shape
    assert torch.allclose(new(x), old(x), atol=1e-5)
    assert type(new) is type(old)


@pytest.mark.parametrize(("conv", "rank"), [(nn.Conv1d, 1), (nn.Conv3d, 3)])
def test_convolutions_of_other_ranks(conv: Any, rank: int) -> None:
    old = conv(4, 4, 3, padding=1)
    new = changed(old, (5,) * rank, (1,) * rank)
    x = torch.randn(1, 4, *(9,) * rank)
    assert torch.allclose(new(x), old(x), atol=1e-5)


def test_a_dilated_kernel_embeds_into_a_larger_dense_one() -> None:
    old = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    new = changed(old, (5, 5), (1, 1))
    x = torch.randn(1, 4, 9, 9)
    assert torch.allclose(new(x), old(x), atol=1e-5)
    assert torch.equal(new.weight[..., ::2, ::2], old.weight)  # type: ignore[index]
    assert not embeds_exactly(old, (3, 3), (1, 1))


def test_a_smaller_kernel_keeps_the_middle_and_says_so() -> None:
    net = Net(Block(8), Block(8))
    surgery = replaced(net, "spatial conv", kernel=1)
    conv = surgery.model.get_submodule("blocks.0.conv1")
    assert torch.equal(conv.weight[..., 0, 0], net.get_submodule("blocks.0.conv1").weight[..., 1, 1])  # type: ignore[index]
    assert "the function changes" in surgery.plan.edits[0].notes[0]
    assert surgery.plan.edits[0].params == -8 * 8 * 8


def test_a_new_dilation_copies_the_weights_and_says_so() -> None:
    net = Net(Block(8), Block(8))
    surgery = replaced(net, "conv 1", dilation=2)
    conv = surgery.model.get_submodule("blocks.1.conv1")
    assert (conv.dilation, conv.padding) == ((2, 2), (2, 2))
    assert torch.equal(conv.weight, net.get_submodule("blocks.1.conv1").weight)  # type: ignore[arg-type]
    assert surgery.plan.edits[0].notes == ("the old weights look at other places: the function changes",)
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))


def test_fresh_weights_on_request() -> None:
    surgery = replaced(Net(Block(8), Block(8)), "spatial conv", kernel=5, embed=False)
    weight = surgery.model.get_submodule("blocks.0.conv1").weight
    assert weight.count_nonzero() == weight.numel()  # type: ignore[operator]
    assert surgery.plan.edits[0].notes == ("starts with fresh weights",)


def test_frozen_weights_stay_frozen() -> None:
    net = Net(Block(8), Block(8))
    net.get_submodule("blocks.0.conv1").requires_grad_(False)
    surgery = replaced(net, "spatial conv", kernel=5)
    frozen = [surgery.model.get_submodule(f"blocks.{index}.conv1").weight.requires_grad for index in (0, 1)]  # type: ignore[union-attr]
    assert frozen == [False, True]


def test_timms_own_convolutions() -> None:
    same = Net(Block(8, lambda width: create_conv2d(width, width, 3, padding="same")), Block(8))
    surgery = replaced(same, "conv 1", kernel=5)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(run(surgery.model, x), run(same, x), atol=1e-5)
    scaled = Net(Block(8, lambda width: ScaledStdConv2d(width, width, 3, padding=1)), Block(8))
    notes = [edit.notes for edit in replaced(scaled, "conv 1", kernel=5).plan.edits]
    assert notes[1] == ()
    assert "ScaledStdConv2d computes with its weights" in notes[0][0]


@pytest.mark.parametrize(
    ("conv", "change", "reason"),
    [
        (None, {"kernel": 17}, "a kernel of 17 is larger than the map of 16x16"),
        (None, {"dilation": 9}, "a kernel of 3 dilated by 9 is larger than the map of 16x16"),
        (None, {"kernel": 3}, "it has kernel 3 and dilation 1 already"),
        (
            lambda c: nn.Conv2d(c, c, (3, 1), padding=(1, 0)),
            {"kernel": 5},
            "its kernel is 3x1, and one of 5 would make it",
        ),
        (lambda c: nn.Conv2d(c, c, 2, padding="same"), {"kernel": 5}, None),
        (lambda c: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(c, c, 3)), {"kernel": 1}, "negative padding"),
        (lambda c: weight_norm(nn.Conv2d(c, c, 3, padding=1)), {"kernel": 5}, "its weight is computed"),
    ],
)
def test_what_cannot_be_done_is_refused(conv: Any, change: dict[str, Any], reason: str | None) -> None:
    net = Net(Block(8, conv), Block(8, conv))
    kept = copy.deepcopy(net)
    if reason is None:
        assert replaced(net, "spatial conv", **change).plan.edits
    else:
        assert reason in reasons(net, "spatial conv", **change)
    assert same_weights(net, kept)


def test_an_even_kernel_and_a_shared_convolution_are_refused() -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(8, 8, 2)
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv1(self.pad(x))

    assert "its kernel of 2 is even" in reasons(Net(Even(), Even()), "conv", kernel=3)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    net = Net(Block(8, lambda _: shared), Block(8, lambda _: shared))
    assert "shared by several hosts (blocks.0.conv1, blocks.1.conv1)" in reasons(net, "spatial conv", kernel=5)
    with pytest.raises(InputError, match="even"):
        replaced(net, "spatial conv", kernel=4)


def test_a_depthwise_convolution_becomes_a_selective_kernel(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-sk")
    edit = surgery.plan.edits[0]
    node, old = surgery.model.get_submodule(edit.path), shufflenet.get_submodule(edit.path)
    assert isinstance(node, SelectiveKernel)
    with pytest.raises(NothingMatchedError, match="it is a part of a selective kernel"):
        sesurgery.apply(surgery.model, "shufflenet-sk")
    convs: list[Any] = [path.conv for path in node.paths]  # type: ignore[union-attr]
    assert [(conv.kernel_size, conv.dilation, conv.stride) for conv in convs] == [
        ((3, 3), (1, 1), (2, 2)),
        ((3, 3), (2, 2), (2, 2)),
    ]
    assert torch.equal(convs[0].weight, old.weight)  # type: ignore[arg-type]
    check_operated(shufflenet, surgery.model, torch.randn(2, 3, 64, 64))


def test_a_diff_shows_the_lines_that_change(shufflenet: nn.Module) -> None:
    diff = sesurgery.plan(shufflenet, "shufflenet-k5").diffs[0]
    assert diff.before.startswith("self[0] = Conv2d(24, 24, kernel_size=(3, 3)")
    assert diff.after.startswith("self[0] = Conv2d(24, 24, kernel_size=(5, 5)")
