"""Costs: torch's own registry of FLOPs, every other operation named, shared weights once."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from networks import TOYS, Residual
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sesurgery
from sesurgery.recording.costs import measure, parameters
from sesurgery.recording.recorder import run


@pytest.mark.parametrize("family", TOYS)
def test_macs_are_half_of_torchs_flops(family: str) -> None:
    member = TOYS[family]
    model, image = member.model(), member.image()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert run(model, (image,)).cost.macs == counter.get_total_flops() // 2
    assert run(model, (image,)).cost.params == sum(parameter.numel() for parameter in model.parameters())


def test_gmacs_of_resnet50() -> None:
    plan = sesurgery.plan("resnet50", "standard", stages=4)
    assert plan.before is not None
    assert plan.after is not None
    assert round(plan.before.macs / 1e9, 3) == 4.089
    assert plan.after.macs - plan.before.macs == sum(edit.macs for edit in plan.edits)
    assert sum(edit.macs for edit in plan.edits) == 3 * 2 * 2048 * 128


@pytest.mark.parametrize("recipe", ["standard", "se-3x3", "post", "backbone-end"])
@pytest.mark.parametrize("family", ["resnet18", "convnext", "swin"])
def test_cost_after_is_the_cost_of_the_operated_model(family: str, recipe: str) -> None:
    if (family, recipe) == ("swin", "se-3x3"):
        return
    member = TOYS[family]
    image = member.image()
    surgery = sesurgery.apply(member.model(), recipe, inplace=True, example_input=image)
    whole = run(surgery.model, (image,)).cost
    assert (surgery.after.params, surgery.after.macs, surgery.after.flops) == (whole.params, whole.macs, whole.flops)
    assert surgery.after.params - surgery.before.params == sum(edit.params for edit in surgery.plan.edits)
    assert surgery.after.macs - surgery.before.macs == sum(edit.macs for edit in surgery.plan.edits)


class MeanAndConvolutions(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class PoolAndLinears(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x).flatten(1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(y)))).view(*y.shape, 1, 1)


def test_se_costs_the_same_however_it_is_written() -> None:
    channels, hidden, side = 256, 16, 56
    image = torch.empty(1, channels, side, side, device="meta")
    with torch.device("meta"):
        nodes = [kind(channels, hidden).eval() for kind in (MeanAndConvolutions, PoolAndLinears)]
        nodes.append(timm.layers.SEModule(channels, rd_channels=hidden).eval())
    costs = [measure(node, image) for node in nodes]
    area = channels * side * side
    for cost in costs:
        assert cost.macs == 2 * channels * hidden
        assert cost.flops == 2 * cost.macs + area + hidden + channels + area  # pool, activation, gate, scale
        assert (cost.params, cost.flops) == (costs[0].params, costs[0].flops)
        assert {kind: cost.items[kind] for kind in ("pool", "activation", "gate", "scale")} == {
            "pool": area,
            "activation": hidden,
            "gate": channels,
            "scale": area,
        }


def test_shared_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    assert parameters(model) == 128
    model[1].weight = model[0].weight
    assert parameters(model) == 64
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = nn.Parameter(tied[0].weight.data)  # another Parameter on the same storage
    assert parameters(tied) == 64
    assert parameters(nn.Sequential(model, model)) == 64


def test_what_is_not_counted_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Residual(4))
    cost = run(model, (torch.randn(1, 3, 8, 8),)).cost
    area = 4 * 8 * 8
    assert cost.uncounted["batch_norm"] == 3 * area
    assert cost.uncounted["add"] == area
    assert cost.items["activation"] == 3 * area
    assert cost.items["conv"] == cost.macs == 8 * 8 * 9 * (3 * 4 + 2 * 4 * 4)
    assert cost.flops == 2 * cost.macs + 3 * area


@pytest.mark.parametrize(
    ("layer", "shape", "kind", "elements"),
    [
        (nn.MaxPool2d(2), (1, 4, 8, 8), "pool", 256),
        (nn.AdaptiveAvgPool2d(1), (1, 4, 8, 8), "pool", 256),
        (nn.GELU(), (1, 4, 8), "activation", 32),
        (nn.Sigmoid(), (1, 4), "gate", 4),
        (nn.Hardsigmoid(), (1, 4), "gate", 4),
    ],
)
def test_elements_of_single_layers(layer: nn.Module, shape: tuple[int, ...], kind: str, elements: int) -> None:
    cost = measure(layer, torch.empty(shape, device="meta"))
    assert cost.items == {kind: elements}
    assert (cost.macs, cost.flops) == (0, elements)


def test_bytes_are_those_of_the_leaves() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    image = functools.partial(torch.randn, 1, 3, 8, 8)
    assert run(model, (image(),)).cost.bytes == 2 * 4 * 64 * 4
    assert run(model.to(torch.bfloat16), (image().to(torch.bfloat16),)).cost.bytes == 2 * 4 * 64 * 2
