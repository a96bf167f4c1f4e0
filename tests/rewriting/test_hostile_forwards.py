"""Forwards that do more than tensor operations: operated, they are equal to the original wherever one looks."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pytest
import torch
from checks import check_same
from networks import lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import sesurgery

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


# What depends on where gradients come from.


class AskingForGradients(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(y.square().sum(), y, create_graph=True)
        return x + slope


class GoingBackwards(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = self.branch(x).detach().requires_grad_()
            y.square().sum().backward()
        return x + y.grad  # type: ignore[operator]


class MakingALeaf(Block):
    """Behind a layer ``y`` would be no leaf, and the assignment would raise."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x).detach()
        y.requires_grad = True
        return x + y


class Hooking(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y.register_hook(lambda slope: slope * 0.5)
        return x + y


# What no mode sees through.


class Round(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, steps: float) -> Tensor:
        return (x * steps).round() / steps

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return slopes[0], None


class ScaledInside(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + Round.apply(self.branch(x), 4.0)


class SampleBySample(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.vmap(lambda sample: self.conv(sample[None])[0])(x)


class Attending(Block):
    def forward(self, x: Tensor) -> Tensor:
        tokens = self.branch(x).flatten(2).transpose(1, 2)
        with sdpa_kernel(SDPBackend.MATH):
            y = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return x + y.transpose(1, 2).reshape(x.shape)


# Forwards that are no plain functions.


class Doubling:
    """A decorator that is a class, and wants an instance."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return types.MethodType(self, instance)

    def __call__(self, instance: Any, x: Tensor) -> Tensor:
        return self.function(instance, x) * 2


class Decorated(Block):
    @Doubling
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Partial(Block):
    def run(self, x: Tensor, factor: float) -> Tensor:
        return x + self.branch(x) * factor

    forward = functools.partialmethod(run, factor=0.5)


# Where a layer has to stand ahead of what repeats its readers.


class Pyramid(Block):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([conv(x) for conv in self.more]).mean(0)


class PyramidInALoop(Pyramid):
    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for conv in self.more:
            parts.append(conv(x))
        return x + torch.stack(parts).mean(0)


BLOCKS: tuple[type[Block], ...] = (
    AskingForGradients,
    GoingBackwards,
    MakingALeaf,
    Hooking,
    ScaledInside,
    SampleBySample,
    Attending,
    Decorated,
    Partial,
    Pyramid,
    PyramidInALoop,
)


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_a_block_is_operated_and_equal(kind: type[Block]) -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kind(), kind()))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    check_same(model, surgery.model, IMAGE)


@pytest.mark.parametrize("recipe", ["post", "identity", "pre"])
@pytest.mark.parametrize("kind", [Decorated, Partial, Pyramid, PyramidInALoop], ids=lambda kind: kind.__name__)
def test_other_places_of_a_block_are_reached(kind: type[Block], recipe: str) -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kind(), kind()))
    surgery = sesurgery.apply(model, recipe, example_input=IMAGE, init="identity")
    assert [edit.host for edit in surgery.plan.edits] == ["1", "2"]
    calls: list[nn.Module] = []
    for edit in surgery.plan.edits:
        surgery.model.get_submodule(edit.path).register_forward_hook(lambda layer, *_: calls.append(layer))
    surgery.model(IMAGE)
    assert len(calls) == len(set(calls)) == 2
    check_same(model, surgery.model, IMAGE)


def test_a_variable_that_the_loop_sets_is_not_gated_ahead_of_it() -> None:
    class Stepping(Pyramid):
        def forward(self, x: Tensor) -> Tensor:
            y = x
            for conv in self.more:
                y = conv(y)
            return x + y

    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Stepping(), Stepping()))
    with pytest.raises(sesurgery.NothingMatchedError, match=r"would call self\.se 3 times"):
        sesurgery.plan(model, "pre", example_input=IMAGE)


class OtherwiseWithGradients(Block):
    """A place on a way that is taken only where nobody wants gradients: training would skip the layer."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if torch.is_grad_enabled():
            return torch.add(x, y)
        return torch.add(x, torch.relu(y))


def test_a_layer_that_training_would_skip_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), OtherwiseWithGradients(), OtherwiseWithGradients())
    with pytest.raises(sesurgery.NothingMatchedError, match=r"would call self\.se 0 times"):
        sesurgery.plan(model, "identity", example_input=IMAGE)


class CallingItself(Block):
    def forward(self, x: Tensor, again: bool = True) -> Tensor:
        if again:
            return torch.func.functional_call(self, {"bn.weight": self.bn.weight * 2}, (x, False))
        return x + self.branch(x)


def test_a_module_that_calls_itself_is_edited_where_it_does_the_most() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), CallingItself(), Pyramid()))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se", "2.se"]
    check_same(model, surgery.model, IMAGE)


class TakingAnArray(Block):
    def forward(self, x: Tensor, columns: Any) -> Tensor:
        return x + self.branch(x) * (len(columns) + 1)


class GivingAnArray(nn.Module):
    """NumPy's arrays have no truth value (FractalNet draws its columns as one)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.stem, self.block, self.length = nn.Conv2d(3, 8, 3, padding=1), TakingAnArray(), length

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x), columns=np.zeros(self.length))


@pytest.mark.parametrize("length", [0, 3])
def test_an_array_may_be_an_argument(length: int) -> None:
    model = lively(GivingAnArray(length))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["block.se"]
    check_same(model, surgery.model, IMAGE)


class Settings:
    def __init__(self, factor: float) -> None:
        self.factor = factor


class Mute(Settings):
    def __repr__(self) -> str:
        raise RuntimeError("nothing to say")


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor, settings: Settings) -> Tensor:  # type: ignore[override]
        return super().forward(x) * settings.factor


class MakingSettings(Block):
    """What a forward makes anew lies somewhere else in memory each time."""

    def __init__(self, kind: type[Settings]) -> None:
        super().__init__()
        self.scaled, self.kind = Scaled(8, 8, 1), kind

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scaled(self.branch(x), self.kind(0.5))


class MakingAGenerator(Block):
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return x + self.branch(x) * torch.rand(1, generator=generator).item()


@pytest.mark.parametrize("block", [MakingSettings(Settings), MakingSettings(Mute), MakingAGenerator()])
def test_an_object_may_be_made_in_a_forward(block: nn.Module) -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), block))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["1.se"]
    check_same(model, surgery.model, IMAGE)


class Shown(nn.Module):
    """Tells how it looks by where its function lies; some cannot even tell that (pytorchcv's DANet)."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.function, self.fails = (lambda x: x.relu()), fails

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        if self.fails:
            raise KeyError("alpha")
        return repr(self.function)


class WithShown(Block):
    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.act = Shown(fails)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.branch(x))


@pytest.mark.parametrize("fails", [False, True])
def test_how_a_child_tells_what_it_is_does_not_matter(fails: bool) -> None:
    model, other = (lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), WithShown(fails))) for _ in "ab")
    plan = sesurgery.plan(model, "standard", example_input=IMAGE)
    assert [edit.path for edit in plan.edits] == ["1.se"]
    assert sesurgery.apply(other, plan, example_input=IMAGE).plan.edits == plan.edits


def test_an_activation_that_holds_a_layer_is_one_still() -> None:
    class Body(Block):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(self.conv, self.bn, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    at = {"at": "after spatial conv", "where": {"stages": "all"}}
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Body(), Body()))
    rules = [
        {"rules": [{"insert": {"module": name, "init": "identity"}, "if_present": "stack", **at}]}
        for name in ("se", "eca")
    ]
    first = sesurgery.apply(model, rules[0], example_input=IMAGE)
    second = sesurgery.apply(first.model, rules[1], example_input=IMAGE)
    holders = [[edit.path.rpartition(".")[0] for edit in surgery.plan.edits] for surgery in (first, second)]
    assert "1.body.2" in holders[0]
    assert holders[0] == holders[1]
    check_same(model, second.model, IMAGE)


# What a forward keeps outside of its module.


class Counting(Block):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return x + self.branch(x)

    @classmethod
    def reset(cls) -> None:
        cls.calls = 0


def test_a_class_attribute_is_that_of_the_authors_class() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Counting(), Counting()))
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert Counting.calls == 0
    operated(IMAGE)
    model(IMAGE)
    assert Counting.calls == type(operated[1]).calls == 4
    operated[1].reset()
    assert Counting.calls == 0


CALLS = 0
SHAPES: list[torch.Size] = []


def _told(x: Tensor) -> None:
    global CALLS
    CALLS += 1
    SHAPES.append(x.shape)


class Telling(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        _told(y)
        return x + y


def test_planning_leaves_what_a_helper_counts_and_collects() -> None:
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Telling(), Telling()))
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert (CALLS, SHAPES) == (0, [])
    operated(IMAGE)
    assert (CALLS, len(SHAPES)) == (2, 2)
