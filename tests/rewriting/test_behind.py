"""A layer behind a module: whatever the module's forward returns, wherever it returns, goes through the layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import networks
import pytest
import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import Unfit
from sesurgery.rewriting.behind import methods_behind

IMAGE = torch.randn(2, 8, 8, 8)
END = {"rules": [{"insert": {"module": "se"}, "at": "end of block"}]}
END_IDENTITY = {"rules": [{"insert": {"module": "se", "init": "identity"}, "at": "end of block"}]}


class Early(nn.Module):
    """Returns in three places, and from a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.way = conv(), conv(), 0

    def forward(self, x: Tensor) -> Tensor:
        def doubled(value: Tensor) -> Tensor:
            return value * 2

        if self.way == 1:
            return x + doubled(self.a(x))
        elif self.way == 2:
            return x - self.a(x)
        y = self.b(torch.relu(self.a(x)))
        return x + y


def test_every_return_goes_through_the_layer() -> None:
    (method,) = methods_behind(Early, ("se",))
    assert method.text.count("self.se(") == 3
    assert "return value * 2" in method.text
    assert "return self.se(x + doubled(self.a(x)))" in method.text
    assert "return self.se(x + y)" in method.text


def test_every_way_calls_the_layer_once() -> None:
    model = networks.lively(nn.Sequential(conv(), Early(), Early()))
    operated = sesurgery.apply(model, END, example_input=IMAGE).model
    calls: list[str] = []
    for name in ("1", "2"):
        operated.get_submodule(f"{name}.se").register_forward_hook(lambda *_, name=name: calls.append(name))
    for way in (0, 1, 2):
        for block in (*model[1:], *operated[1:]):
            block.way = way
        calls.clear()
        assert not torch.equal(operated(IMAGE), model(IMAGE))
        assert calls == ["1", "2"]
    operated = sesurgery.apply(model, END_IDENTITY, example_input=IMAGE).model
    for way in (0, 1, 2):
        for block in (*model[1:], *operated[1:]):
            block.way = way
        check_same(model, operated, IMAGE)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        print(x)


def test_what_returns_nothing_is_refused() -> None:
    with pytest.raises(Unfit, match="returns nothing"):
        methods_behind(Silent, ("se",))


def test_two_layers_behind_one_module_stand_in_order() -> None:
    (method,) = methods_behind(networks.Short, ("se", "eca"))
    assert "return self.eca(self.se(x + self.conv(x)))" in method.text


def test_a_layer_of_torch_and_an_activation_can_be_the_host() -> None:
    for kind in (nn.Conv2d, nn.ReLU, nn.BatchNorm2d):
        (method,) = methods_behind(kind, ("se",))
        assert "return self.se(" in method.text


def test_a_lambda_as_forward() -> None:
    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        forward = lambda self, x: x + self.conv(x)  # noqa: E731

    model = networks.lively(nn.Sequential(conv(), Short()))
    operated = sesurgery.apply(model, END_IDENTITY, example_input=IMAGE).model
    check_same(model, operated, IMAGE)


# What a model gives stays what it was: an OrderedDict, a NamedTuple, a dataclass of the author's.


class Maps(NamedTuple):
    low: Tensor
    high: Tensor


class Pair(nn.Module):
    kind: Any = Maps

    def __init__(self) -> None:
        super().__init__()
        self.block, self.down = networks.Short(), conv()

    def forward(self, x: Tensor) -> Any:
        low = self.block(x)
        return self.kind(low=low, high=low + self.down(low))


class Ordered(Pair):
    kind = OrderedDict


@pytest.mark.parametrize("kind", [Pair, Ordered])
@pytest.mark.parametrize("recipe", ["standard", "post", "pre", "identity"])
def test_the_type_of_the_output_stays(kind: type[Pair], recipe: str) -> None:
    model = networks.lively(kind())
    operated = sesurgery.apply(model, recipe, example_input=IMAGE, init="identity").model
    check_same(model, operated, IMAGE)
    assert type(operated(IMAGE)) is kind.kind


class Looped(nn.Module):
    """Sums what each block gives with a shortcut in a loop, so a layer on that sum stands behind the block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([networks.Residual(8), networks.Residual(8)])

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for block in self.blocks:
            x = block(x) + first
        return x


def test_a_host_takes_layers_within_and_behind() -> None:
    model = networks.lively(nn.Sequential(conv(), Looped()))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    routes = {(edit.host, edit.route) for edit in surgery.plan.edits}
    assert routes == {(f"1.blocks.{block}", route) for block in (0, 1) for route in ("source", "behind")}
    check_same(model, surgery.model, IMAGE)
    assert sesurgery.verify(model, surgery.model, IMAGE)


@pytest.mark.parametrize("chain", [False, True])
def test_behind_a_layer_that_is_run_in_a_loop_is_behind_each_of_its_calls(chain: bool) -> None:
    model = Loop(chain).eval()
    x = torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, {"rules": [{"insert": {"module": "se"}, "at": "after conv"}]}, example_input=x)
    (edit,) = surgery.plan.edits
    gate = surgery.model.get_submodule(edit.path)
    expected = x
    for _ in range(3):
        expected = gate(model.step(expected))
    assert torch.equal(surgery.model(x), expected)
    assert surgery.after.macs - surgery.before.macs == edit.macs
    assert sesurgery.verify(model, surgery.model, example_input=x)


class Loop(nn.Module):
    def __init__(self, chain: bool) -> None:
        super().__init__()
        self.step = nn.Sequential(conv(), nn.ReLU()) if chain else conv()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.step(x)
        return x


class Several(nn.Module):
    """Each turn runs a convolution of its own, and all of them one activation."""

    def __init__(self) -> None:
        super().__init__()
        self.convs, self.act = nn.ModuleList(conv() for _ in "abc"), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = self.act(layer(x))
        return x


def test_what_several_layers_run_in_turn_is_gated_in_each_turn_by_a_layer_of_its_own() -> None:
    model, x = Several().eval(), torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, {"rules": [{"insert": {"module": "se"}, "at": "after conv"}]}, example_input=x)
    assert not surgery.plan.skipped
    assert [edit.route for edit in surgery.plan.edits] == ["source"] * 3
    expected = x
    for layer, edit in zip(model.convs, surgery.plan.edits, strict=True):
        expected = surgery.model.get_submodule(edit.path)(model.act(layer(expected)))
    assert torch.equal(surgery.model(x), expected)
