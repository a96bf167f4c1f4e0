"""What goes into a forward and comes out of it: defaults, lists, dicts, names, tensors that are taken apart."""

from __future__ import annotations

from typing import Any

import torch
from networks import conv
from torch import Tensor, nn

from sesurgery.anatomy.anatomy import dissect
from sesurgery.tracing.survey import survey
from sesurgery.tracing.trace import Failure, Trace


def traced(module: nn.Module, *args: Any, **kwargs: Any) -> Trace | Failure:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *given: Any) -> Any:
            return self.inner(*given, **kwargs)

    seen = survey(Outer(), args)
    found = seen.trace(seen.module("inner"))
    assert found is not None
    return found


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, pre_logits: bool = False, scale: float = 2.0) -> Tensor:
        x = self.fc1(x) * scale
        return x if pre_logits else self.fc2(x)


def test_defaults_are_bound() -> None:
    found = traced(Head(), torch.randn(1, 8))
    assert isinstance(found, Trace)
    assert found.bound == {"pre_logits": False, "scale": 2.0}
    given = traced(Head(), torch.randn(1, 8), pre_logits=True)
    assert isinstance(given, Trace)
    assert given.bound == {"pre_logits": True, "scale": 2.0}
    assert [node.target for node in given.graph.nodes if node.op == "call_module"] == ["fc1"]


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
    found = traced(Containers(), maps[:2], {"low": maps[2], "high": maps[3]})
    assert isinstance(found, Trace)
    model = nn.Module()
    model.convs = Containers().convs
    program = torch.fx.GraphModule(model, found.graph)
    original = Containers()
    original.convs = model.convs
    ours = program(maps[:2], {"low": maps[2], "high": maps[3]})
    theirs = original(maps[:2], {"low": maps[2], "high": maps[3]})
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Pyramid(nn.Module):
    """Maps in a dict, as torchvision's feature pyramid: names come back from a child that has added one."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([conv(), conv()])
        self.coarser = Coarser()

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        names = list(maps.keys())
        given = [layer(value) for layer, value in zip(self.lateral, maps.values(), strict=True)]
        found = [given[0] + nn.functional.interpolate(given[1], size=given[0].shape[-2:]), given[1]]
        found, names = self.coarser(found, names)
        return dict(zip(names, found, strict=True))


class Coarser(nn.Module):
    def forward(self, maps: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*maps, nn.functional.max_pool2d(maps[-1], 2)], [*names, "pool"]


def test_names_that_a_child_gives_are_structure() -> None:
    model = Pyramid()
    maps = {"fine": torch.randn(1, 8, 8, 8), "coarse": torch.randn(1, 8, 4, 4)}
    seen = survey(model, (maps,))
    found = seen.trace(seen.twin)
    assert isinstance(found, Trace)
    assert [merge.kind for merge in dissect(seen).reported_merges()] == ["symmetric"]
    ours, theirs = torch.fx.GraphModule(model, found.graph)(maps), model(maps)
    assert list(ours) == list(theirs) == ["fine", "coarse", "pool"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


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


def test_a_tensor_is_taken_apart_by_name_and_not_in_a_loop() -> None:
    model, image = Unpacking(), torch.randn(3, 8, 4, 4)
    found = traced(model, image[:1])
    assert isinstance(found, Trace)
    assert torch.equal(torch.fx.GraphModule(model, found.graph)(image), model(image))
    refused = traced(Looping(), image[:1])
    assert isinstance(refused, Failure)
    assert "loops over an axis of a tensor" in refused.reason


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
    assert all(isinstance(seen.trace(layer), Trace) for layer in seen.twin.layers)
