"""Costs: torch's own registry of FLOPs, every other operation named, shared weights once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from networks import TOYS, Residual
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import sesurgery
from sesurgery.recording.costs import CountingMode, measure, parameters
from sesurgery.recording.recorder import run


@pytest.mark.parametrize("family", TOYS)
def test_macs_are_half_of_torchs_flops(family: str) -> None:
    member = TOYS[family]
    device = "cpu" if family == "branching" else "meta"  # on the CPU torch has no formula for fused attention
    model, image = member.model().to(device), member.image().to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    cost = run(model, (image,)).cost
    assert cost.macs * len(image) == counter.get_total_flops() // 2
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


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
    assert surgery.after == whole
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


def saved(model: nn.Module, image: Tensor) -> int:
    """The bytes that autograd keeps of a forward, each storage once, parameters and buffers left out."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in memory:
            kept.setdefault(address, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(image)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


BYTES = {
    "resnet18": "identity",
    "resnet50": "standard",
    "efficientnet_b0": "strip-attention",
    "convnext": "post",
    "vit": "standard",
    "swin": "pre",
    "densenet": "se-3x3",
    "shufflenet": "shufflenet-liteconv",
}


@pytest.mark.parametrize("family", BYTES)
def test_activation_bytes_are_what_autograd_keeps_before_and_after(family: str) -> None:
    member = TOYS[family]
    image = member.image()
    surgery = sesurgery.apply(member.model(), BYTES[family], example_input=image)
    before, after = (saved(model.eval(), image[:1].clone()) for model in (member.model(), surgery.model))
    assert surgery.before.activation_bytes == pytest.approx(before, rel=0.02)
    assert surgery.after.activation_bytes == pytest.approx(after, rel=0.02)
    assert surgery.after.activation_bytes - surgery.before.activation_bytes == pytest.approx(after - before, rel=0.02)


AREA = 4 * 8 * 8 * 4  # bytes of a map of four channels


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ((nn.Identity(),), 0),
        ((nn.ReLU(inplace=True),), 0),  # what the norm gave is overwritten, and the relu keeps it
        ((nn.ReLU(),), 0),  # what the norm gave is let go
        ((nn.GELU(),), AREA),  # keeps what it is given, and the convolution what it gives
        ((nn.GELU(), nn.Identity(), nn.GELU()), 2 * AREA),
    ],
)
def test_what_a_layer_between_norm_and_convolution_makes_autograd_keep(layers: Sequence[nn.Module], kept: int) -> None:
    def model(*between: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *between, nn.Conv2d(4, 4, 1))

    plain, more = (run(model(*between), (torch.randn(1, 3, 8, 8),)).cost.activation_bytes for between in ((), layers))
    assert plain == 3 * 8 * 8 * 4 + 2 * AREA  # the image, and what norm and second convolution take
    assert more - plain == kept


def test_bytes_follow_the_dtype_and_frozen_weights_count_as_trained() -> None:
    model, image = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.randn(1, 3, 8, 8)
    single = run(model, (image,)).cost
    assert run(model.requires_grad_(False), (image,)).cost == single
    assert not any(parameter.requires_grad for parameter in model.parameters())
    half = run(model.to(torch.bfloat16), (image.to(torch.bfloat16),)).cost
    assert (half.activation_bytes, half.weight_bytes) == (single.activation_bytes // 2, single.weight_bytes // 2)


class Attends(nn.Module):
    """Attention by torch's function, with a bias of the scores that is learned or not."""

    def __init__(self, learned: bool | None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        bias = torch.zeros(9, 9)
        self.bias = nn.Parameter(bias) if learned else None if learned is None else bias

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.out(y.transpose(1, 2).reshape(-1, 9, 16))


@pytest.mark.parametrize("learned", [None, False, True])
def test_attention_counts_as_fused_where_torch_fuses_it(learned: bool | None) -> None:
    model, tokens = Attends(learned), torch.randn(1, 9, 16)
    own = 0 if learned is not False else 9 * 9 * 4  # a plain tensor of the model's is kept, and no buffer of it
    with torch.device("meta"):
        cost = run(Attends(learned), (torch.empty(1, 9, 16),)).cost
    assert cost.activation_bytes == saved(model, tokens) - own
    with torch.no_grad(), CountingMode() as real:
        model(tokens)
    assert real.macs == cost.macs


class Pyramid(nn.Module):
    """One block for maps of two sizes, and a batch that nothing but the number of samples tells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, padding=1), Residual(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x = self.block(nn.functional.max_pool2d(x, 2))
        return self.head(x.mean((2, 3)))


RULES = {
    "one": [{"insert": {"module": "se"}, "at": "before residual add"}],
    "convolution": [{"insert": {"module": "cbam"}, "at": "before residual add"}],
    "swap": [{"replace": {"kernel": 5}, "at": "conv 2"}],
}


@pytest.mark.parametrize("name", RULES)
def test_costs_are_those_of_a_sample_and_rows_add_up_for_a_block_of_several_sizes(name: str) -> None:
    plans = [
        sesurgery.plan(Pyramid(), {"rules": RULES[name]}, example_input=torch.randn(batch, 3, 16, 16))
        for batch in (1, 4)
    ]
    assert (plans[0].before, plans[0].after) == (plans[1].before, plans[1].after)
    assert [(edit.params, edit.macs) for edit in plans[0].edits] == [(e.params, e.macs) for e in plans[1].edits]
    before, after = plans[0].before, plans[0].after
    assert before is not None
    assert after is not None
    assert after.params - before.params == sum(edit.params for edit in plans[0].edits)
    assert after.macs - before.macs == sum(edit.macs for edit in plans[0].edits) > 0


def test_two_rules_cost_what_one_rule_for_the_same_sites_does() -> None:
    def rule(blocks: int | str) -> dict[str, Any]:
        return {"insert": {"module": "se"}, "at": "before residual add", "where": {"stages": 4, "blocks": blocks}}

    one = sesurgery.plan("resnet18", {"rules": [rule("all")]})
    two = sesurgery.plan("resnet18", {"rules": [rule(0), rule(1)]})
    assert one.after == two.after
    assert [edit.macs for edit in one.edits] == [edit.macs for edit in two.edits]


def test_modules_add_up_to_the_whole() -> None:
    surgery = sesurgery.apply("resnet18", "standard", stages=4, device="meta")
    for cost in (surgery.before, surgery.after):
        parts = cost.by_module()
        assert parts[""] == cost
        for field in ("params", "macs", "flops", "activation_bytes", "weight_bytes"):
            children = sum(getattr(part, field) for path, part in parts.items() if path and "." not in path)
            assert children + getattr(cost.own[""], field) == getattr(cost, field)
    se = surgery.after.by_module()["layer4.0.se"]
    assert (se.params, se.macs) == (surgery.plan.edits[0].params, surgery.plan.edits[0].macs)
    assert "own" not in surgery.plan.to_json()
    assert sesurgery.Plan.from_json(surgery.plan.to_json()) == surgery.plan


def test_weight_bytes_are_those_of_the_file() -> None:
    model = timm.create_model("resnet18")
    model.register_buffer("left_out", torch.ones(1000, 1000), persistent=False)
    model.tied = nn.Linear(512, 1000)
    model.tied.weight = model.fc.weight
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    plan = sesurgery.plan(model, "standard", input_size=(3, 64, 64))
    assert plan.before is not None
    assert 0 <= buffer.tell() - plan.before.weight_bytes < 64 * 1024


class WritesIntoItsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale.clamp_(0, 2)


def test_a_model_that_bears_no_gradients_has_no_activation_bytes_and_all_other_costs() -> None:
    surgery = sesurgery.apply(WritesIntoItsWeight(), "backbone-end", example_input=torch.randn(1, 3, 8, 8))
    assert (surgery.before.activation_bytes, surgery.before.macs) == (0, 3 * 4 * 64)
    assert surgery.after.macs > surgery.before.macs


def test_stages_cost_what_their_blocks_do() -> None:
    inspection = sesurgery.inspect("resnet18")
    assert inspection.cost is not None
    parts = inspection.cost.by_module()
    assert [cost.macs for cost in inspection.stage_costs] == [parts[f"layer{number}"].macs for number in (1, 2, 3, 4)]
    assert inspection.cost.macs - sum(cost.macs for cost in inspection.stage_costs) == parts["conv1"].macs + 512 * 1000
