"""What the trace of a forward shows: merges and their branches, gates, constants, and what it refuses."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from checks import check_same
from networks import (
    Biased,
    Concat,
    Function,
    InPlace,
    Method,
    Nested,
    OneBlock,
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
)
from torch import Tensor, nn

import sesurgery
from sesurgery.anatomy.anatomy import Anatomy, dissect
from sesurgery.tracing.survey import survey


def anatomy(model: nn.Module, *args: Any) -> Anatomy:
    return dissect(survey(model, args or (torch.randn(1, 3, 8, 8),)))


def kinds(block: type[nn.Module]) -> list[str]:
    seen = anatomy(OneBlock(block))
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
    seen = anatomy(OneBlock(block))
    (merge,) = (merge for merges in seen.merges.values() for merge in merges)
    assert merge.identity is merge.fork
    assert merge.fork is not None
    assert merge.fork.op == "placeholder"
    assert [str(end.target) for end in merge.branches] == ["conv2"]


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
    seen = anatomy(OneBlock(Nested))
    (inner, outer) = next(iter(seen.merges.values()))
    assert (inner.kind, outer.kind) == ("identity", "identity")
    assert inner.fork is not None
    assert inner.fork.target == "first"
    assert outer.fork is not None
    assert outer.fork.op == "placeholder"
    assert outer.branches == (inner.node,)


def test_parallel_branches_share_one_identity() -> None:
    plan = sesurgery.plan(OneBlock(Parallel), "standard", example_input=torch.randn(1, 3, 8, 8))
    assert sorted(edit.change.value for edit in plan.edits) == ["attn", "mlp"]
    assert len({edit.path for edit in plan.edits}) == 2


def test_rep_blocks_have_no_identity() -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match="none is the identity"):
        sesurgery.plan(OneBlock(Rep), "standard", example_input=torch.randn(1, 3, 8, 8))


class LookingAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = networks.Residual(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if float(y.detach()[0, 0, 0, 0]) > 0 else x - 2 * y


def test_a_host_that_looks_at_values_is_a_host_like_any_other() -> None:
    image = torch.randn(1, 3, 8, 8)
    model = networks.lively(OneBlock(LookingAtValues))
    assert sesurgery.inspect(model, example_input=image).untraced == ()
    surgery = sesurgery.apply(model, "standard", example_input=image, init="identity")
    assert "block.block.se" in [edit.path for edit in surgery.plan.edits]
    ways = set()
    for seed in range(16):
        image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 3
        ways.add(float(model.eval().block.block(model.stem(image)).detach()[0, 0, 0, 0]) > 0)
        check_same(model, surgery.model, image)
    assert ways == {True, False}
