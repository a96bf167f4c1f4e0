"""What a host's own code does, as a graph: operations, what they write, where they stand, and what no mode sees."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import Short, conv
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sesurgery.recording.author_places import Place
from sesurgery.tracing.survey import Survey, survey

IMAGE = torch.randn(2, 8, 4, 4)


def graph_of(model: nn.Module, *args: Any) -> Graph:
    seen: Survey = survey(model, args or (IMAGE,))
    trace = seen.trace(seen.twin)
    assert trace is not None
    return trace.graph


def lines(graph: Graph) -> list[str]:
    """Each node in short: ``add = add(x, conv)``, with ``!`` and the names of the nodes that it writes into."""
    return [
        f"{node.name} = {getattr(node.target, '__name__', node.target)}({_listed(node.args)})"
        + "".join(f" !{written.name}" for written in node.meta.get("writes", ()))
        for node in graph.nodes
        if node.op not in ("placeholder", "output")
    ] + [f"return {_listed(node.args)}" for node in graph.nodes if node.op == "output"]


def _listed(args: Any) -> str:
    return ", ".join(f"[{_listed(each)}]" if isinstance(each, list) else str(each) for each in args)


class Host(nn.Module):
    """Does with its convolution what a test says."""

    def __init__(self, do: Callable[[Host, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.same, self.relu = conv(), nn.Identity(), nn.ReLU(inplace=True)
        self.do = do

    def forward(self, x: Tensor) -> Any:
        return self.do(self, x)


def augmented(self: Host, x: Tensor) -> Tensor:
    y = self.conv(x)
    y += x
    return y


def assigned(self: Host, x: Tensor) -> Tensor:
    y = self.conv(x)
    y[:, :4] = 0
    return x + y


def by_a_layer(self: Host, x: Tensor) -> Tensor:
    self.relu(x)
    return self.conv(x)


WRITTEN: dict[str, tuple[Callable[[Host, Tensor], Any], list[str]]] = {
    "y += x": (augmented, ["conv = conv(x)", "add = add(conv, x) !conv", "return add"]),
    "y.relu_()": (
        lambda self, x: self.conv(x).relu_() + x,
        ["conv = conv(x)", "relu = relu_(conv) !conv", "add = add(relu, x)", "return add"],
    ),
    "inplace=True": (by_a_layer, ["relu = relu(x) !x", "conv = conv(relu)", "return conv"]),
    "out=": (
        lambda self, x: torch.add(x, self.conv(x), out=torch.empty_like(x)),
        ["conv = conv(x)", "empty_like = empty_like(x)", "add = add(x, conv) !empty_like", "return add"],
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_in_place(name: str) -> None:
    do, wanted = WRITTEN[name]
    got = lines(graph_of(Host(do)))
    assert got[: len(wanted)] == wanted


def test_a_part_that_is_assigned_is_a_write() -> None:
    graph = graph_of(Host(assigned))
    (add,) = (node for node in graph.nodes if node.name == "add")
    (setitem,) = (node for node in graph.nodes if "setitem" in node.name)
    assert [node.name for node in setitem.meta["writes"]] == ["conv"]
    assert add.args[1] is setitem


STRUCTURES: dict[str, tuple[Callable[[Host, Tensor], Any], list[str]]] = {
    "chunk": (
        lambda self, x: torch.cat([self.conv(x).chunk(2, 1)[0], x], 1),
        ["conv = conv(x)", "chunk = chunk(conv, 2, 1)", "getitem = getitem(chunk, 0)", "cat = cat([getitem, x], 1)"],
    ),
    "a dict": (lambda self, x: {"low": x, "high": self.conv(x)}, ["conv = conv(x)"]),
    "a size": (
        lambda self, x: F.interpolate(self.conv(x), size=x.shape[-2:]),
        ["conv = conv(x)", "interpolate = interpolate(conv)", "return interpolate"],
    ),
    "x.T": (lambda self, x: self.conv(x).mT, ["conv = conv(x)", "getattr_1 = getattr(conv, mT)", "return getattr_1"]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_tuples_attributes_and_containers(name: str) -> None:
    do, wanted = STRUCTURES[name]
    assert lines(graph_of(Host(do)))[: len(wanted)] == wanted


def depends(node: Node, on: str) -> bool:
    return node.name == on or any(depends(each, on) for each in node.all_input_nodes)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scripting is deprecated, and still in use

    @torch.jit.script
    def swish(x):  # type: ignore[no-untyped-def]
        return x * torch.sigmoid(x)


OPAQUE: dict[str, Callable[[Host, Tensor], Any]] = {
    "autograd.Function": lambda self, x: Sign.apply(self.conv(x)),
    "scripted": lambda self, x: swish(self.conv(x)),
    "vmap": lambda self, x: torch.vmap(torch.relu)(self.conv(x)),
    "vmap over a child": lambda self, x: torch.vmap(lambda sample: self.conv(sample[None])[0])(x),
    "vjp": lambda self, x: torch.func.vjp(self.conv, x)[0],
    "torch.func": lambda self, x: torch.func.functional_call(nn.ReLU(), {}, (self.conv(x),)),
    "jvp": lambda self, x: torch.func.jvp(torch.sin, (self.conv(x),), (x,))[1],
    "reentrant checkpoint": lambda self, x: checkpoint(torch.relu, self.conv(x), use_reentrant=True),
    "checkpoint": lambda self, x: checkpoint(torch.relu, self.conv(x), use_reentrant=False),
    "tensor": lambda self, x: torch.tensor(self.conv(x)),
    "as_tensor": lambda self, x: torch.as_tensor(self.conv(x)),
    "Variable": lambda self, x: torch.autograd.Variable(self.conv(x)),
    "data": lambda self, x: self.conv(x).data,
    "detach": lambda self, x: self.conv(x).detach(),
    "fork": lambda self, x: torch.jit.wait(torch.jit.fork(torch.relu, self.conv(x))),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPAQUE)
def test_what_no_mode_sees_keeps_its_inputs(name: str) -> None:
    do = OPAQUE[name]
    graph = graph_of(Host(lambda self, x: x + do(self, x)))
    (add,) = (node for node in graph.nodes if node.name == "add")
    assert add.args[0].name == "x"
    assert depends(add.args[1], "conv"), lines(graph)


# Calls of children.


def test_a_child_that_raises_and_is_caught_is_no_part_of_the_call() -> None:
    class Strict(Short):
        def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
            y = super().forward(x)
            if lengths is not None:
                raise TypeError("no lengths")
            return y

    class Trying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Strict()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.layer(x, lengths=3)
            except TypeError:
                return self.layer(x)

    seen = survey(Trying(), (IMAGE,))
    assert lines(seen.trace(seen.twin).graph) == ["layer = layer(x)", "return layer"]  # type: ignore[union-attr]
    assert [len(frame.children) for frame in [seen.probe.root]] == [1]


def test_a_child_whose_forward_is_called_directly_is_called() -> None:
    graph = graph_of(Host(lambda self, x: x + self.conv.forward(x)))
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["conv"]


def test_what_a_child_passes_on_is_told_from_its_input() -> None:
    graph = graph_of(Host(lambda self, x: self.same(x) + x))
    assert lines(graph) == ["same = same(x)", "add = add(same, x)", "return add"]


def test_a_method_that_gives_the_tensor_itself_is_told_from_its_input() -> None:
    graph = graph_of(Host(lambda self, x: self.conv(x).contiguous() + x))
    assert lines(graph)[:2] == ["conv = conv(x)", "contiguous = contiguous(conv)"]


def test_a_parameter_of_the_host_and_of_its_parts_has_a_name() -> None:
    graph = graph_of(Host(lambda self, x: x * self.conv.bias.view(1, -1, 1, 1)))
    assert [node.target for node in graph.nodes if node.op == "get_attr"] == ["conv.bias"]


# Places.


class Placed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(), nn.BatchNorm2d(8)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn(
            self.conv(x),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = next(each * 2 for each in (self.branch(x),))
        return torch.relu(x + y)


def text_at(place: Place) -> str:
    assert place.span is not None
    with open(place.code.co_filename, encoding="utf-8") as file:
        source = file.read().splitlines()
    line, column, end_line, end_column = place.span
    rows = source[line - 1 : end_line]
    rows[-1] = rows[-1][:end_column]
    rows[0] = rows[0][column:]
    return " ".join(row.strip() for row in rows)


def test_each_operation_has_the_exact_place_of_its_expression() -> None:
    graph = graph_of(Placed())
    places = {node.name: node.meta["place"] for node in graph.nodes if node.meta.get("place")}
    assert {name: text_at(place) for name, place in places.items()} == {
        "conv": "self.conv(x)",
        "bn": "self.bn( self.conv(x), )",
        "mul": "each * 2",
        "add": "x + y",
        "relu": "torch.relu(x + y)",
    }
    assert places["conv"].code is Placed.branch.__code__
    assert places["add"].code is Placed.forward.__code__
    assert str(places["add"]).endswith("of test_operations.py")
