"""A sum is residual by nature: one side comes from p unchanged or by a projection, and p leads to the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import check_same
from networks import conv, lively
from torch import Tensor, nn

import sesurgery

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def add(one: Tensor, two: Tensor) -> Tensor:
    return one + two


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gamma = conv(), conv(), nn.Parameter(torch.ones(8, 1, 1))

    def branch(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


class Helper(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return add(x, self.branch(x))


class Alpha(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x), alpha=0.5)


class Named(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(input=x, other=self.branch(x))


class Lerp(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.branch(x), 0.25)


class LerpMethod(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return x.lerp(self.branch(x), 0.25)


class AddCMul(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.gamma, self.branch(x))


class Gated(Pair):
    """What is added is a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, torch.sigmoid(self.gate(x)), self.branch(x))


class GatedOtherwise(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return x.addcmul(self.branch(x), torch.sigmoid(self.gate(x)), value=0.5)


class MeanOfBoth(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.branch(x)]).mean(0)


class Straight(nn.Module):
    """Two branches that are one layer each and bend nothing, beside the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = conv(), conv(), nn.BatchNorm2d(8)


class ShakeShake(Straight):
    def forward(self, x: Tensor) -> Tensor:
        share = torch.rand(x.shape[0], 1, 1, 1, device=x.device) if self.training else 0.5
        return x + self.a(x) * share + self.b(x) * (1 - share)


class MeanOfLayers(Straight):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([self.a(x), self.b(x)]).mean(0)


class SharedNorm(Straight):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.a(y) + self.b(y)


class SumOfMultiples(Straight):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        return x + sum(y * factor for factor in range(3))


class Detached(Pair):
    """An identity branch without gradient is one still."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach() + self.branch(x)


class Optional(Pair):
    """Adds where its caller wants it to."""

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        y = self.branch(x)
        if skip:
            y = x + y
        return y


class OptionLater(nn.Module):
    """One block called two ways: without its sum, then with it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Optional()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x), skip=True)


class OptionFirst(OptionLater):
    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x, skip=True))


class PreActivation(Pair):
    """Returns its branch and what the sum is to take besides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pre = F.relu(self.norm(x))
        return self.branch(pre), pre


class TupleOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = PreActivation()

    def forward(self, x: Tensor) -> Tensor:
        x, pre = self.body(x)
        return x + pre


class Ending(nn.Module):
    """BERT's way: the sum stands in a child, which is given both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = conv(kernel=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.norm(self.dense(x) + before)


class TwoArguments(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.end = Ending()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.branch(x), x)


class Reduce(nn.Module):
    def forward(self, sides: list[Tensor]) -> Tensor:
        return sides[0] + sides[1]


class Map(Pair):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch(x), x]


class ListOfTwo(nn.Module):
    """The ResNeXt of old converters: one child makes both sides, the next adds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.sum = Map(), Reduce()

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(self.both(x))


class Lambda(nn.Sequential):
    """What converters from Torch 7 write: each child is given the input, and a function makes something of all."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.function = function

    def prepare(self, x: Tensor) -> Any:
        return [module(x) for module in self._modules.values()] or x


class LambdaMap(Lambda):
    def forward(self, x: Tensor) -> list[Tensor]:
        return list(map(self.function, self.prepare(x)))


class LambdaReduce(Lambda):
    def forward(self, x: list[Tensor]) -> Tensor:
        return functools.reduce(self.function, self.prepare(x))


def converted() -> nn.Module:
    branch = nn.Sequential(conv(), nn.ReLU(), conv(), nn.BatchNorm2d(8))
    return nn.Sequential(LambdaMap(lambda x: x, branch, nn.Sequential()), LambdaReduce(lambda x, y: x + y), nn.ReLU())


class Conditioned(Pair):
    """With a second input, as in diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(4, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(x) + self.time(t)[:, :, None, None]))


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv(), Conditioned()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.block(self.stem(x), t)


def net(block: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), block(), block())


WRITTEN = [Helper, Alpha, Named, Lerp, LerpMethod, AddCMul, Gated, GatedOtherwise, MeanOfBoth, Detached]
STRAIGHT = [ShakeShake, MeanOfLayers, SharedNorm, SumOfMultiples]
RESIDUAL = [*WRITTEN, OptionLater, OptionFirst, TupleOfTwo, TwoArguments, ListOfTwo]


def kinds(model: nn.Module, *example: Tensor) -> list[str]:
    given = example or (IMAGE,)
    return [merge.kind for merge in sesurgery.inspect(model, example_input=given).merges if merge.op == "add"]


def gated(block: Callable[[], nn.Module], recipe: str) -> sesurgery.Surgery[nn.Module]:
    """Two such blocks behind a stem, operated by a recipe; with gates at identity they give what they gave."""
    model = lively(net(block))
    surgery = sesurgery.apply(model, recipe, example_input=IMAGE, init="identity")
    check_same(model, surgery.model, IMAGE)
    return surgery


@pytest.mark.parametrize("block", RESIDUAL)
@pytest.mark.parametrize("recipe", ["standard", "post", "identity"])
def test_it_is_residual_and_is_operated(block: type[nn.Module], recipe: str) -> None:
    assert kinds(net(block)) == ["identity", "identity"]
    assert len(gated(block, recipe).plan.edits) == 2


@pytest.mark.parametrize("block", STRAIGHT)
def test_branches_that_bend_nothing_are_branches_still(block: type[nn.Module]) -> None:
    assert [edit.host for edit in gated(block, "identity").plan.edits] == ["1", "2"]
    assert sesurgery.plan(net(block), "standard", example_input=IMAGE).edits


class ShakenInTraining(Straight):
    """In eval mode the branches come together by another expression: both ways meet behind the factor only."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.norm(self.b(x))
        y = torch.lerp(a, b, torch.rand(1, device=x.device)) if self.training else 0.5 * (a + b)
        return y + x


def test_a_branch_that_training_makes_otherwise_is_gated_where_the_sum_takes_it() -> None:
    surgery = gated(ShakenInTraining, "standard")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    assert "return self.se(y) + x" in surgery.plan.diffs[0].after


@pytest.mark.parametrize("block", WRITTEN)
def test_pre_stands_where_the_branch_begins(block: type[nn.Module]) -> None:
    surgery = gated(block, "pre")
    assert [edit.host for edit in surgery.plan.edits] == ["1", "2"]


def test_pre_of_a_sum_in_a_child_lies_in_the_caller() -> None:
    surgery = gated(TwoArguments, "pre")
    assert [edit.host for edit in surgery.plan.edits] == ["1", "2"]
    assert "self.b(F.relu(self.a(self.se(x))))" in surgery.plan.diffs[0].after


def test_pre_of_a_pair_lies_in_the_child_that_makes_it() -> None:
    surgery = gated(TupleOfTwo, "pre")
    assert [edit.host for edit in surgery.plan.edits] == ["1.body", "2.body"]
    assert "self.b(F.relu(self.a(self.se(x))))" in surgery.plan.diffs[0].after


def test_a_sum_that_an_option_leaves_out_needs_no_layer_there() -> None:
    model = net(OptionLater)
    surgery = sesurgery.apply(model, "identity", example_input=IMAGE)
    calls: list[Tensor] = []
    surgery.model.get_submodule("1.block.se").register_forward_hook(lambda layer, args, output: calls.append(output))
    surgery.model(IMAGE)
    assert len(calls) == 1


def test_a_branch_that_comes_in_a_list_is_gated_where_it_is_made() -> None:
    assert kinds(net(converted)) == ["identity", "identity"]
    assert [edit.path for edit in gated(converted, "standard").plan.edits] == ["1.0.0.3.se", "2.0.0.3.se"]


def test_a_second_input_takes_nothing_away() -> None:
    model, time = Labelled(), torch.randn(2, 4)
    model.stem = nn.Conv2d(3, 8, 3, padding=1)
    assert sorted(kinds(model, IMAGE, time)) == ["identity"]


class RepVgg(nn.Module):
    """Before fusing: a 3x3, a 1x1 and nothing but a norm, all linear."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.point = (nn.Sequential(conv(kernel=k), nn.BatchNorm2d(8)) for k in (3, 1))
        self.skip = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.skip(x))


class RepWithInput(RepVgg):
    """The same with the input itself in the sum, and a norm behind it (RepViT)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.skip(self.dense(x) + self.point(x) + x))


class MobileOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches, self.skip = nn.ModuleList(conv() for _ in "abc"), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out = self.skip(x)
        for branch in self.branches:
            out = out + branch(x)
        return F.relu(out)


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = conv(), conv(), conv(kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(F.dropout(x, 0.1, self.training)))


class Pyramid(nn.Module):
    """A lateral convolution and a larger copy of the deeper map."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(8, 8, 3, 2, 1), conv()
        self.side, self.inner = conv(kernel=1), conv(kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.deep(F.relu(self.down(x)))
        return self.side(x) + F.interpolate(self.inner(low), scale_factor=2)


@pytest.mark.parametrize("block", [RepVgg, RepWithInput, MobileOne, LoRA, Pyramid])
def test_sums_of_like_branches_are_not_residual(block: type[nn.Module]) -> None:
    assert set(kinds(net(block))) == {"symmetric"}


class Unread(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        _ = x + y
        return x + self.a(y)


def test_a_value_that_nobody_reads_is_no_site() -> None:
    assert kinds(net(Unread)) == ["identity", "identity"]
    plan = sesurgery.plan(net(Unread), "standard", example_input=IMAGE)
    assert [edit.host for edit in plan.edits] == ["1", "2"]
