"""What the trace of a forward shows: merges and their branches, gates, constants, and what it refuses."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from blocks import (
    Biased,
    Concat,
    Function,
    InPlace,
    Method,
    Nested,
    Net,
    Parallel,
    Plain,
    PostNorm,
    PreActivation,
    Projected,
    Rep,
    Scaled,
    Squeezed,
    Stacked,
    Summed,
    SummedFirst,
    Swapped,
    Symmetric,
    Three,
    Weighted,
    conv,
)
from torch import Tensor, nn

import sesurgery
from sesurgery.anatomy import Anatomy, dissect
from sesurgery.survey import survey
from sesurgery.trace import Failure, Trace


def anatomy(model: nn.Module, *args: Any) -> Anatomy:
    return dissect(survey(model, args or (torch.randn(1, 3, 8, 8),)))


def kinds(block: type[nn.Module]) -> list[str]:
    seen = anatomy(Net(block))
    return [merge.kind for merges in seen.merges.values() for merge in merges]


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (Plain, []),
        (Biased, []),
        (Swapped, ["identity"]),
        (InPlace, ["identity"]),
        (Method, ["identity"]),
        (Function, ["identity"]),
        (Projected, ["projected"]),
        (PostNorm, ["identity"]),
        (PreActivation, ["identity"]),
        (Scaled, ["identity"]),
        (Stacked, ["identity"]),
        (Summed, ["identity"]),
        (SummedFirst, ["identity", "identity"]),
        (Weighted, ["identity"]),
        (Three, ["identity", "identity"]),
        (Symmetric, ["symmetric"]),
        (Rep, ["symmetric", "symmetric"]),
        (Squeezed, ["identity", "gate"]),
        (Concat, ["concat"]),
        (networks.Residual, None),
    ],
)
def test_kinds_of_merges(block: type[nn.Module], wanted: list[str] | None) -> None:
    if wanted is None:
        block, wanted = lambda: networks.Residual(8), ["identity"]  # type: ignore[assignment]
    assert kinds(block) == wanted


@pytest.mark.parametrize("block", [Swapped, InPlace, Method, Function, PostNorm, PreActivation, Stacked])
def test_identity_is_found_by_dataflow(block: type[nn.Module]) -> None:
    seen = anatomy(Net(block))
    (merge,) = (merge for merges in seen.merges.values() for merge in merges)
    assert merge.identity is merge.fork
    assert merge.fork is not None
    assert merge.fork.op == "placeholder"
    assert [str(end.target) for end in merge.branches] == ["conv2"]


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


class Mixer(nn.Module):
    """MLP-Mixer's first half: a linear layer over the tokens leaves the channels where they are."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.norm, self.tokens = nn.LayerNorm(16), nn.Linear(9, 9, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)


class SequenceFirst(nn.Module):
    """Attention on (L, N, C), as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(8, 8, 2, 2), nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return tokens.permute(1, 2, 0)


@pytest.mark.parametrize("bias", [True, False])
def test_channels_of_a_token_mixer(bias: bool) -> None:
    plan = sesurgery.plan(nn.Sequential(Mixer(bias), Mixer(bias)), "standard", input_size=(9, 16))
    assert [(edit.channels, edit.options["axis"]) for edit in plan.edits] == [(16, 2), (16, 2)]


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_are_not_mixed(batch: int) -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match=r"is \(L, N, C\)"):
        sesurgery.plan(SequenceFirst(), "standard", example_input=(torch.randn(batch, 8, 6, 6),))


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


class Embedded(nn.Module):
    """Adds of a position embedding and of a mask are no merges."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.register_buffer("mask", torch.zeros(1, 5, 5))
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) + self.mask + torch.zeros_like(self.mask)).softmax(-1)
        return x + self.out(weights @ v)


def test_mask_and_position_embedding_are_no_merges() -> None:
    seen = anatomy(Embedded(), torch.randn(1, 5, 6))
    (merges,) = seen.merges.values()
    assert [(merge.op, merge.kind) for merge in merges] == [("add", "identity")]
    axis = merges[0].node.meta["val"]
    assert axis.shape == (1, 5, 8)


def test_nested_residuals_have_their_own_forks() -> None:
    seen = anatomy(Net(Nested))
    (inner, outer) = next(iter(seen.merges.values()))
    assert (inner.kind, outer.kind) == ("identity", "identity")
    assert inner.fork is not None
    assert inner.fork.target == "first"
    assert outer.fork is not None
    assert outer.fork.op == "placeholder"
    assert outer.branches == (inner.node,)


def test_parallel_branches_share_one_identity() -> None:
    plan = sesurgery.plan(Net(Parallel), "standard", example_input=torch.randn(1, 3, 8, 8))
    assert sorted(edit.site["value"] for edit in plan.edits) == ["attn", "mlp"]
    assert len({edit.path for edit in plan.edits}) == 2


def test_rep_blocks_have_no_identity() -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match="none is the identity"):
        sesurgery.plan(Net(Rep), "standard", example_input=torch.randn(1, 3, 8, 8))


class Folded(nn.Module):
    """A residual over a view in which channels and places are mixed: no axis holds the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Bilinear(4, 4, 4)
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2).reshape(x.shape[0], 16, -1)
        return y + torch.einsum("ij,njk->nik", self.weight, y)


def test_unknown_channel_axis_is_refused() -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match="channels cannot be derived"):
        sesurgery.plan(Net(Folded), "standard", example_input=torch.randn(1, 3, 8, 8))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = networks.Residual(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y if float(y.sum()) > 0 else -y


def test_untraceable_host_says_where_and_hides_nothing() -> None:
    seen = sesurgery.inspect(Net(Untraceable), example_input=torch.randn(1, 3, 8, 8))
    (one,) = seen.untraced
    assert (one.path, one.cls) == ("block", "Untraceable")
    assert "test_trace.py" in one.reason
    assert "y.sum()" in one.reason
    plan = sesurgery.plan(Net(Untraceable), "standard", example_input=torch.randn(1, 3, 8, 8))
    assert [edit.path for edit in plan.edits] == ["block.block.se"]
