"""Layers in a loop that an author wrote in one forward: each turn has a layer of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sesurgery
from sesurgery.errors import NothingMatchedError
from sesurgery.testing import assert_forward

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RULE = {"name": "test", "rules": [{"insert": {"module": "se", "rd_channels": 2}, "at": "before residual add"}]}


class Loop(nn.Module):
    """Sums in a loop, with an activation behind the layers of each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleDict({name: nn.Conv2d(8, 8, 3, padding=1) for name in "abc"})
        self.left_out: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers.values():
            x = x + functional.silu(layer(x))
        return x


class Pairs(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name, layer in self.layers.items():
            y = functional.silu(layer(x))
            x = x + y if name else y
        return x


class Counted(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, layer in enumerate(self.layers.values()):
            if i not in self.left_out:
                x = x + functional.silu(layer(x))
        return x


class Grown(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers.values():
            x += functional.silu(layer(x))
        return x


class Comprehended(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.stack([x + functional.silu(layer(x)) for layer in self.layers.values()]).sum(0)


class Bare(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x, layers = self.stem(x), self.layers
        for layer, factor in (layers["a"], 1.0), (layers["b"], 0.5), (layers["c"], 0.1):
            x = x + functional.silu(layer(x)) * factor
        return x


class While(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x, left = self.stem(x), list(self.layers.values())
        while left:
            x = x + functional.silu(left.pop(0)(x))
        return x


class Called(Loop):
    """The sum is in a method that the loop calls."""

    def step(self, x: Tensor, layer: nn.Module) -> Tensor:
        return x + functional.silu(layer(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers.values():
            x = self.step(x, layer)
        return x


BEFORE = """
def forward(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    for layer in self.layers.values():
        x = x + functional.silu(layer(x))
    return x
"""
AFTER = """
def forward(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    for turn_se, layer in enumerate(self.layers.values()):
        x = x + {0: self.se, 1: self.se_2, 2: self.se_3}.get(turn_se, lambda value: value)(functional.silu(layer(x)))
    return x
"""


def test_the_loop_counts_its_turns() -> None:
    plan = assert_forward(Loop(), RULE, BEFORE, AFTER, example_input=IMAGE)
    assert [edit.path for edit in plan.edits] == ["se", "se_2", "se_3"]


@pytest.mark.parametrize("kind", [Loop, Pairs, Counted, Grown, Comprehended, Bare, While])
def test_each_turn_has_its_layer_and_no_bit_changes(kind: Callable[[], Loop]) -> None:
    model = kind()
    operated = sesurgery.apply(model, RULE, init="identity", example_input=IMAGE).model
    assert sesurgery.verify(model, operated)
    taken: list[Tensor] = []
    operated.se_2.register_forward_hook(lambda layer, given, output: taken.append(given[0]))
    x = model.stem(IMAGE)
    if kind is not Comprehended:
        x = x + functional.silu(model.layers["a"](x))
    operated.eval()(IMAGE)
    assert torch.equal(taken[0], functional.silu(model.layers["b"](x)))
    assert type(sesurgery.revert(operated)) is kind


def test_a_turn_that_is_left_out_takes_its_own_layer_with_it() -> None:
    model = Counted()
    surgery = sesurgery.apply(model, RULE, example_input=IMAGE)
    assert "for i, layer in enumerate(self.layers.values())" in surgery.plan.diffs[0].after
    surgery.model.left_out = {0}
    called: list[nn.Module] = []
    for name in ("se", "se_2", "se_3"):
        surgery.model.get_submodule(name).register_forward_hook(lambda layer, *_: called.append(layer))
    surgery.model.eval()(IMAGE)
    assert called == [surgery.model.se_2, surgery.model.se_3]


def test_some_turns_only_and_again_on_another_model() -> None:
    model = Loop()
    rule = RULE["rules"][0] | {"where": {"path": "se_2"}}  # type: ignore[index]
    plan = sesurgery.plan(model, {"name": "test", "rules": [rule]}, init="identity", example_input=IMAGE)
    assert "{1: self.se}.get(turn_se," in plan.diffs[0].after
    other = copy.deepcopy(model)
    assert sesurgery.verify(other, sesurgery.apply(other, plan).model)


def test_a_loop_that_nothing_counts_is_refused() -> None:
    with pytest.raises(NothingMatchedError, match=r"would call self\.se 3 times"):
        sesurgery.plan(Called(), RULE, example_input=IMAGE)


class Recurrent(nn.Module):
    """The same layers again and again: how often is up to the caller, and no turn has layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.refine = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, times: int = 3) -> Tensor:
        x = self.stem(x)
        for _ in range(times):
            x = x + functional.silu(self.refine(x))
        return x


def test_a_recurrence_takes_no_layer_for_each_turn() -> None:
    with pytest.raises(NothingMatchedError, match=r"would call self\.se 3 times"):
        sesurgery.plan(Recurrent(), RULE, example_input=IMAGE)
