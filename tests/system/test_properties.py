"""Random networks of many kinds of block, in three layouts: what must hold for all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import networks
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sesurgery
from sesurgery.plans import Plan

LAYOUTS = ("nchw", "nhwc", "tokens")
AT = ("before residual add", "after residual add", "before concat", "after concat", "end of block")
# Widths of the sites in each kind of block, in multiples of its own, for each of AT.
SITES: dict[str, tuple[tuple[int, ...], ...]] = {
    "residual": ((1,), (1,), (), (), (1,)),
    "swapped": ((1,), (1,), (), (), (1,)),
    "gated": ((1,), (1,), (), (), (1,)),
    "nested": ((1, 1), (1, 1), (), (), (1,)),
    "parallel": ((1, 1), (1,), (), (), (1,)),
    "concat": ((), (), (1,), (2,), (1,)),
    "plain": ((), (), (), (), (1,)),
}
FAST = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


class Layer(nn.Module):
    """One layer with weights in a layout: a 3x3 convolution, or a linear layer on the last axis."""

    def __init__(self, layout: str, width: int, out: int | None = None) -> None:
        super().__init__()
        channels_first = layout == "nchw"
        self.body = nn.Conv2d(width, out or width, 3, padding=1) if channels_first else nn.Linear(width, out or width)
        self.norm = nn.GroupNorm(1, out or width) if channels_first else nn.LayerNorm(out or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x))


class Block(nn.Module):
    def __init__(self, kind: str, layout: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.width = width
        self.channels = 1 if layout == "nchw" else -1
        self.one, self.two = Layer(layout, width), Layer(layout, width)
        self.act = nn.GELU()


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.act(self.one(x)))


class Swapped(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.act(self.one(x)))
        y += x
        return y


class Gated(Block):
    """Has a gate of its own in the branch."""

    def __init__(self, kind: str, layout: str, width: int) -> None:
        super().__init__(kind, layout, width)
        self.fc = nn.Linear(width, width)
        self.space = (2, 3) if layout == "nchw" else tuple(range(1, 3 if layout == "nhwc" else 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        gate = torch.sigmoid(self.fc(y.mean(self.space)))
        shape = [y.shape[0]] + [1] * (y.ndim - 1)
        shape[self.channels] = y.shape[self.channels]
        return x + self.two(self.act(y * gate.reshape(shape)))


class Nested(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return x + (y + self.two(self.act(y)))


class Parallel(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.one(x) + self.two(self.act(x))


class Concat(Block):
    def __init__(self, kind: str, layout: str, width: int) -> None:
        super().__init__(kind, layout, width)
        self.fuse = Layer(layout, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([x, self.two(self.act(self.one(x)))], self.channels))


class Plain(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.two(self.act(self.one(x))))


KINDS: dict[str, type[Block]] = {
    "residual": Residual,
    "swapped": Swapped,
    "gated": Gated,
    "nested": Nested,
    "parallel": Parallel,
    "concat": Concat,
    "plain": Plain,
}


class Network(nn.Module):
    """Stages of blocks; each stage but the first halves the map and doubles the width."""

    def __init__(self, layout: str, width: int, stages: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.layout = layout
        self.stem = nn.Conv2d(3, width, 1)
        self.stages, self.downs = nn.ModuleList(), nn.ModuleList()
        for index, kinds in enumerate(stages):
            self.downs.append(nn.Conv2d(width, 2 * width, 2, 2) if index else nn.Identity())
            width *= 2 if index else 1
            self.stages.append(nn.Sequential(*[KINDS[kind](kind, layout, width) for kind in kinds]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = down(x)
            size = x.shape
            if self.layout == "nhwc":
                x = stage(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            elif self.layout == "tokens":
                x = stage(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(size)
            else:
                x = stage(x)
        return x


@st.composite
def networks_with_sites(draw: st.DrawFn) -> Network:
    layout = draw(st.sampled_from(LAYOUTS))
    blocks = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3)
    stages = draw(st.lists(blocks, min_size=1, max_size=3))
    torch.manual_seed(draw(st.integers(0, 99)))
    return networks.lively(Network(layout, draw(st.sampled_from([6, 12])), stages))  # type: ignore[return-value]


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def sites_built(model: Network, at: str) -> list[int]:
    """Channels of every site that the construction has, stage by stage."""
    blocks = [block for stage in model.stages for block in stage]
    return [block.width * times for block in blocks for times in SITES[block.kind][AT.index(at)]]


def rule(at: str, **node: object) -> dict[str, object]:
    return {"name": "test", "rules": [{"insert": {"module": "se", "rd_channels": 2, **node}, "at": at}]}


@FAST
@given(model=networks_with_sites(), at=st.sampled_from(AT))
def test_as_many_edits_as_sites_were_built(model: Network, at: str) -> None:
    wanted = sites_built(model, at)
    if not wanted:
        with pytest.raises(sesurgery.NothingMatchedError):
            sesurgery.plan(model, rule(at), example_input=IMAGE)
        return
    plan = sesurgery.plan(model, rule(at), example_input=IMAGE)
    assert [edit.channels for edit in plan.edits] == wanted
    assert len({edit.path for edit in plan.edits}) == len(wanted)


@FAST
@given(model=networks_with_sites(), at=st.sampled_from(AT))
def test_open_gates_change_nothing_and_revert_restores(model: Network, at: str) -> None:
    if not sites_built(model, at):
        return
    before = model(IMAGE)
    operated = sesurgery.apply(copy.deepcopy(model), rule(at, init="identity"), inplace=True, example_input=IMAGE)
    assert torch.equal(operated.model(IMAGE), before)
    for parameter in operated.new_parameters():
        nn.init.normal_(parameter)
    assert not torch.equal(operated.model(IMAGE), before)
    reverted = sesurgery.revert(operated.model)
    assert torch.equal(reverted(IMAGE), before)
    assert [type(module) for module in reverted.modules()] == [type(module) for module in model.modules()]
    assert list(reverted.state_dict()) == list(model.state_dict())


@FAST
@given(model=networks_with_sites(), at=st.sampled_from(AT))
def test_plan_as_json_applies_like_the_recipe(model: Network, at: str) -> None:
    if not sites_built(model, at):
        return
    plan = sesurgery.plan(model, rule(at), example_input=IMAGE)
    direct = sesurgery.apply(model, rule(at), example_input=IMAGE)
    replayed = sesurgery.apply(model, Plan.from_json(plan.to_json()), example_input=IMAGE)
    replayed.model.load_state_dict(direct.model.state_dict(), strict=True)
    assert torch.equal(replayed.model(IMAGE), direct.model(IMAGE))
    assert replayed.plan.edits == direct.plan.edits == plan.edits
    assert replayed.after == direct.after == plan.after


def closed(surgery: sesurgery.Surgery) -> nn.Module:
    """All gates at 0."""
    for edit in surgery.plan.edits:
        surgery.model.get_submodule(edit.path).register_forward_hook(lambda node, args, output: output * 0)
    return surgery.model


@FAST
@given(
    kind=st.sampled_from(["residual", "swapped", "gated"]),
    layout=st.sampled_from(LAYOUTS),
    recipe=st.sampled_from(["standard", "identity"]),
)
def test_closed_gates_leave_the_other_branch_alone(kind: str, layout: str, recipe: str) -> None:
    torch.manual_seed(1)
    width = 12
    block = networks.lively(KINDS[kind](kind, layout, width))
    x = torch.randn({"nchw": (2, width, 4, 4), "nhwc": (2, 4, 4, width), "tokens": (2, 16, width)}[layout])
    model = Wrapped(block, layout)
    image = torch.randn(2, 3, 4, 4)
    operated = closed(sesurgery.apply(model, recipe, example_input=image, rd_channels=2))
    with torch.no_grad():
        whole = block(x.clone())
        found = operated.block(x.clone())
    if recipe == "standard":
        assert torch.equal(found, x)
    else:
        assert torch.allclose(found, whole - x, atol=1e-5)


class Wrapped(nn.Module):
    """A block behind a stem, in the layout it wants."""

    def __init__(self, block: nn.Module, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.stem = nn.Conv2d(3, 12, 1)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        elif self.layout == "tokens":
            x = x.flatten(2).transpose(1, 2)
        return self.block(x)


@FAST
@given(layout=st.sampled_from(LAYOUTS), width=st.sampled_from([5, 8, 16]), side=st.sampled_from([4, 8, 16]))
def test_node_works_on_the_true_channel_axis(layout: str, width: int, side: int) -> None:
    """Also where the map is as wide as it has channels."""
    model = Network(layout, width, [["residual"]])
    image = torch.randn(2, 3, side, side)
    surgery = sesurgery.apply(model, rule("before residual add"), inplace=True, example_input=image)
    (edit,) = surgery.plan.edits
    assert edit.channels == width
    weights = [parameter for parameter in surgery.new_parameters() if parameter.ndim > 1]
    assert sorted(math.prod(weight.shape) for weight in weights) == [2 * width, 2 * width]
    assert sorted(max(weight.shape) for weight in weights) == sorted([max(2, width)] * 2)
    assert surgery.model(image).shape == (2, width, side, side)
