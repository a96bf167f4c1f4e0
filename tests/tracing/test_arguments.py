"""What goes into a forward and comes out of it: defaults, lists, dicts, names, tensors that are taken apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn
from torch.fx import Graph

import sesurgery
from sesurgery.anatomy.anatomy import dissect
from sesurgery.tracing.survey import survey


def recorded(module: nn.Module, *args: Any, **kwargs: Any) -> Graph:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *given: Any) -> Any:
            return self.inner(*given, **kwargs)

    seen = survey(Outer(), args)
    trace = seen.trace(seen.module("inner"))
    assert trace is not None
    return trace.graph


def called(graph: Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def names(value: Any) -> Any:
    """Nodes by name."""
    return torch.fx.node.map_arg(value, lambda node: node.name)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, pre_logits: bool = False, scale: float = 2.0) -> Tensor:
        x = self.fc1(x) * scale
        return x if pre_logits else self.fc2(x)


def test_only_what_ran_is_recorded() -> None:
    graph = recorded(Head(), torch.randn(1, 8))
    assert called(graph) == ["fc1", "fc2"]
    assert [node.args[1] for node in graph.nodes if node.name == "mul"] == [2.0]
    assert called(recorded(Head(), torch.randn(1, 8), pre_logits=True)) == ["fc1"]
    graph = recorded(Head(), torch.randn(1, 8), False, scale=3.0)
    assert [node.args[1] for node in graph.nodes if node.name == "mul"] == [3.0]
    assert [node.name for node in graph.nodes if node.op == "placeholder"] == ["x", "pre_logits", "scale"]


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(), conv()])

    def forward(self, maps: list[Tensor], named: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = [layer(value) for layer, value in zip(self.convs, maps, strict=True)]
        maps[0] = maps[0] + named["low"]
        return {name: value + maps[1] for name, value in [("sum", maps[0])]} | {"high": named["high"]}


def test_lists_and_dicts_as_arguments() -> None:
    maps = [torch.randn(1, 8, 4, 4) for _ in range(4)]
    graph = recorded(Containers(), maps[:2], {"low": maps[2], "high": maps[3]})
    assert [node.name for node in graph.nodes if node.op == "placeholder"] == ["maps", "named"]
    assert called(graph) == ["convs.0", "convs.1"]
    first, second, low = (each for each in graph.nodes if each.name in ("convs_0", "convs_1", "add"))
    (output,) = (node.args[0] for node in graph.nodes if node.op == "output")
    assert list(output) == ["sum", "high"]
    assert names(output["sum"].args) == ("add", "convs_1")
    assert low.args[0] is first
    assert names(low.args[1].args) == ("named", "low")
    (passed_on,) = output["high"].args
    assert names(passed_on.args) == ("named", "high")
    assert names(second.args[0].args) == ("maps", 1)
    check_same(*operated(Containers(), maps[:2], {"low": maps[2], "high": maps[3]}))


def operated(model: nn.Module, *args: Any) -> tuple[Any, ...]:
    """A model, what it is with a layer behind every convolution, and the arguments."""
    recipe = {"rules": [{"insert": {"module": "se", "init": "identity"}, "at": "after conv"}]}
    try:
        return model, sesurgery.apply(model, recipe, example_input=args).model, *args
    except sesurgery.NothingMatchedError:
        return model, copy.deepcopy(model), *args


class Pyramid(nn.Module):
    """Maps in a dict, as torchvision's feature pyramid: names come back from a child that has added one."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([conv(), conv()])
        self.coarser = Coarser()

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        keys = list(maps.keys())
        given = [layer(value) for layer, value in zip(self.lateral, maps.values(), strict=True)]
        fused = [given[0] + nn.functional.interpolate(given[1], size=given[0].shape[-2:]), given[1]]
        fused, keys = self.coarser(fused, keys)
        return dict(zip(keys, fused, strict=True))


class Coarser(nn.Module):
    def forward(self, maps: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*maps, nn.functional.max_pool2d(maps[-1], 2)], [*names, "pool"]


def test_names_that_a_child_gives() -> None:
    model = Pyramid()
    maps = {"fine": torch.randn(1, 8, 8, 8), "coarse": torch.randn(1, 8, 4, 4)}
    seen = survey(model, (maps,))
    trace = seen.trace(seen.twin)
    assert trace is not None
    assert [merge.kind for merge in dissect(seen).reported_merges()] == ["symmetric"]
    (output,) = (node.args[0] for node in trace.graph.nodes if node.op == "output")
    assert list(output) == ["fine", "coarse", "pool"]
    assert called(trace.graph) == ["lateral.0", "lateral.1", "coarser"]


class Unpacking(nn.Module):
    """A tensor that is taken apart by assigning it to names, as attention often does with q, k and v."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).unflatten(1, (2, -1)).transpose(0, 1)
        return x + value * gate.sigmoid()


class Looping(Unpacking):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([self.conv(sample)[:8] for sample in x])


@pytest.mark.parametrize(("kind", "recipe"), [(Unpacking, "pre"), (Looping, "standard")])
def test_a_tensor_is_taken_apart(kind: type[Unpacking], recipe: str) -> None:
    """By names, and in a loop over as many pieces as there are."""
    model = kind()
    surgery = sesurgery.apply(model, recipe, example_input=torch.randn(2, 8, 4, 4), init="identity")
    assert [edit.host for edit in surgery.plan.edits] == [""]
    for samples in (2, 1, 5):
        check_same(model, surgery.model, torch.randn(samples, 8, 4, 4))


class Appending(nn.Module):
    """A caller that goes on filling the list it has passed: the record must not grow with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Take(8), Take(16), Take(24)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Take(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 8, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.conv(torch.cat(maps, 1))


def test_list_that_grows_behind_a_call() -> None:
    seen = survey(Appending(), (torch.randn(1, 8, 4, 4),))
    lengths = [len(seen.probe.frames[layer].args[0]) for layer in seen.twin.layers]
    assert lengths == [1, 2, 3]
    for layer, length in zip(seen.twin.layers, lengths, strict=True):
        trace = seen.trace(layer)
        assert trace is not None
        (cat,) = (node for node in trace.graph.nodes if node.name == "cat")
        assert len(cat.args[0]) == length
