"""A rewritten forward is believed only where its recording is the old one with the layer called once, no more."""

from __future__ import annotations

from collections.abc import Callable

import networks
import pytest
import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn
from torch.fx import Graph

import sesurgery
from sesurgery.errors import Unfit
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.rewriting.validation import check, check_but_for
from sesurgery.tracing.survey import survey

IMAGE = torch.randn(2, 8, 8, 8)
Forward = Callable[[nn.Module, Tensor], Tensor]


class Host(nn.Module):
    def __init__(self, do: Forward) -> None:
        super().__init__()
        self.a, self.b, self.se = conv(), conv(), nn.Identity()
        self.do = do

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self, x)


def graph(do: Forward) -> Graph:
    seen = survey(Host(do), (IMAGE,))
    trace = seen.trace(seen.twin)
    assert trace is not None
    return trace.graph


def before(self: Host, x: Tensor) -> Tensor:
    y = torch.relu(self.a(x))
    return x + self.b(y)


RIGHT: dict[str, tuple[Forward, LayerCall]] = {
    "at the value": (lambda self, x: x + self.se(self.b(torch.relu(self.a(x)))), LayerCall("se", "b")),
    "at a user": (lambda self, x: self.se(x) + self.b(torch.relu(self.a(x))), LayerCall("se", "x", ("add",))),
    "at the entry": (lambda self, x: before(self, self.se(x)), LayerCall("se", "x")),
    "behind": (lambda self, x: self.se(before(self, x)), LayerCall("se", "add")),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rewrite_is_accepted(name: str) -> None:
    do, insertion = RIGHT[name]
    check(graph(before), graph(do), [insertion])
    check_but_for(graph(before), graph(do), ["se"])


WRONG: dict[str, Forward] = {
    "not called": before,
    "called twice": lambda self, x: x + self.se(self.se(self.b(torch.relu(self.a(x))))),
    "on another value": lambda self, x: x + self.b(self.se(torch.relu(self.a(x)))),
    "on the other operand": lambda self, x: self.se(x) + self.b(torch.relu(self.a(x))),
    "its output is not taken": lambda self, x: (self.se(self.b(torch.relu(self.a(x)))), before(self, x))[1],
    "operands swapped": lambda self, x: self.se(self.b(torch.relu(self.a(x)))) + x,
    "another activation": lambda self, x: x + self.se(self.b(torch.sigmoid(self.a(x)))),
    "an operation less": lambda self, x: x + self.se(self.b(self.a(x))),
    "an operation more": lambda self, x: x + self.se(self.b(torch.relu(self.a(x)))) + 0,
    "another constant": lambda self, x: torch.add(x, self.se(self.b(torch.relu(self.a(x)))), alpha=2),
    "another child": lambda self, x: x + self.se(self.a(torch.relu(self.a(x)))),
    "a tuple": lambda self, x: (x + self.se(self.b(torch.relu(self.a(x)))),),  # type: ignore[dict-item, return-value]
    "a child is called once more": lambda self, x: (self.a(x), x + self.se(self.b(torch.relu(self.a(x)))))[1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rewrite_is_refused(name: str) -> None:
    with pytest.raises(Unfit) as caught:
        check(graph(before), graph(WRONG[name]), [LayerCall("se", "b")])
    if name in ("not called", "called twice"):
        assert f"call self.se {0 if name == 'not called' else 2} times" in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(WRONG) - {"on another value", "on the other operand"}))
def test_a_wrong_way_of_training_is_refused(name: str) -> None:
    """Nobody says there where the site is: the layer may stand anywhere, once."""
    with pytest.raises(Unfit):
        check_but_for(graph(before), graph(WRONG[name]), ["se"])


def test_the_order_of_independent_operations_does_not_matter() -> None:
    def other(self: Host, x: Tensor) -> Tensor:
        b = self.b(x)
        a = self.a(x)
        return a + b

    check(graph(lambda self, x: self.a(x) + self.b(x)), graph(other), [])


# Aliases: what is written in place behind the site, and read beside it.


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = conv(), conv(), nn.ReLU(inplace=True)


class Rectified(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x)
        return x + self.b(self.a(y))


class RectifiedByMethod(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu_()
        return x + self.b(self.a(y))


class RectifiedView(Block):
    def forward(self, x: Tensor) -> Tensor:
        v = x.flatten(2)
        v.relu_()
        return x + self.b(self.a(v.view_as(x)))


class RectifiedPart(Block):
    def forward(self, x: Tensor) -> Tensor:
        x[:, :4].relu_()
        return x + self.b(self.a(x))


class ScaledView(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        y.view(-1).mul_(2.0)
        return x + y


class Detached(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y.detach().clamp_(min=0)
        return x + self.b(y)


@pytest.mark.parametrize("recipe", ["standard", "pre", "post", "identity", "se-3x3"])
@pytest.mark.parametrize("kind", [Rectified, RectifiedByMethod, RectifiedView, RectifiedPart, ScaledView, Detached])
def test_what_works_in_place_is_equal_or_refused(kind: type[Block], recipe: str) -> None:
    model = networks.lively(nn.Sequential(conv(), kind()))
    try:
        surgery = sesurgery.apply(model, recipe, example_input=IMAGE, init="identity")
    except sesurgery.NothingMatchedError:
        return
    check_same(model, surgery.model, IMAGE)


def test_a_refusal_for_aliases_names_both_lines() -> None:
    def new(self: Host, x: Tensor) -> Tensor:
        y = self.se(x).relu_()
        return self.a(y) + x

    seen = survey(Writing(before), (IMAGE,))
    trace = seen.trace(seen.twin)
    assert trace is not None
    with pytest.raises(Unfit) as caught:
        check(trace.graph, graph(new), [LayerCall("se", "x", ("relu",))])
    first = Writing.forward.__code__.co_firstlineno
    assert f"line {first + 1} of test_validation.py writes into it in place" in str(caught.value)
    assert f"line {first + 2} of test_validation.py reads it" in str(caught.value)


class Writing(Host):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu_()
        return self.a(y) + x
