"""Of equal calls of equal modules one runs: all are recorded, and all are counted, as if each had run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import timm
import torch
from networks import TOYS
from torch import Tensor, nn

from sesurgery.recording.recorder import count, run, walk
from sesurgery.tracing.meta_copy import twin_of
from sesurgery.tracing.same_structure import Structures

IMAGE = torch.empty(1, 8, 6, 6, device="meta")
NETWORKS = (
    "test_vit test_convnext test_efficientnet test_resnet resnet26t seresnet50 coat_tiny swin_tiny_patch4_window7_224 "
    "eca_resnet33ts maxvit_tiny_tf_224 mixer_s32_224"
).split()


@dataclass
class Runs:
    """How often a forward ran; no list, dict or set, which planning would put back."""

    names: tuple[str, ...] = field(default=())


RUNS = Runs()


class Block(nn.Module):
    """A residual block whose branch is ``after``."""

    def __init__(self, after: Callable[[Block, Tensor], Tensor] = lambda block, x: x) -> None:
        super().__init__()
        self.conv, self.act, self.after = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), after

    def forward(self, x: Tensor) -> Tensor:
        RUNS.names += ("block",)
        return self.act(self.after(self, self.conv(x)) + x)


def _counter(block: Block, x: Tensor) -> Tensor:
    block.calls = getattr(block, "calls", 0) + 1  # type: ignore[assignment]
    return x


class Writing(Block):
    def forward(self, x: Tensor) -> Tensor:
        RUNS.names += ("block",)
        return x.add_(self.conv(x))


class Passing(Block):
    def forward(self, x: Tensor) -> Tensor:
        RUNS.names += ("block",)
        return x


def _runs(blocks: list[nn.Module]) -> int:
    model = twin_of(nn.Sequential(nn.Conv2d(8, 8, 1), *blocks))
    RUNS.names = ()
    run(model, (IMAGE,), structure=Structures(model).of)
    return len(RUNS.names)


def test_one_of_equal_blocks_runs() -> None:
    # The first is given the memory of a convolution, which nothing keeps; the others that of an activation.
    assert _runs([Block() for _ in range(6)]) == 2


@pytest.mark.parametrize("kind", [lambda: Block(_counter), Writing, Passing])
def test_a_block_of_which_more_is_seen_from_outside_runs_each_time(kind: Callable[[], Block]) -> None:
    assert _runs([kind() for _ in range(6)]) == 6


def test_blocks_of_other_options_and_sizes_run() -> None:
    strided, dilated = Block(), Block()
    dilated.conv.dilation, dilated.conv.padding = (2, 2), (2, 2)
    assert _runs([Block(), strided, dilated, nn.AvgPool2d(2), Block()]) == 4


def test_each_equal_block_has_frames_of_its_own() -> None:
    model = twin_of(nn.Sequential(nn.Conv2d(8, 8, 1), *(Block() for _ in range(5))))
    probe = run(model, (IMAGE,), structure=Structures(model).of)
    called = [frame.module for frame in walk(probe.root)]
    assert called == [model, model[0], *(part for block in list(model)[1:] for part in (block, block.conv, block.act))]
    assert probe.frames[model[5]].graph is probe.frames[model[3]].graph
    assert [node.name for node in probe.root.graph.nodes if node.op == "call_module"] == [f"_{n}" for n in range(6)]


@pytest.mark.parametrize("family", sorted(TOYS.keys() - {"branching"}))  # that one looks at values
def test_toys_cost_as_if_all_had_run(family: str) -> None:
    member = TOYS[family]
    _same_cost(member.model(), (member.image().to("meta"),))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_cost_as_if_all_had_run(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    _same_cost(model, (torch.empty(1, *model.default_cfg["input_size"], device="meta"),))


def _same_cost(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    """In all and module by module, bytes for the backward pass included."""
    one, other, third = twin_of(model), twin_of(model), twin_of(model)
    wanted = count(one, args)
    assert wanted.macs > 0
    assert count(other, args, structure=Structures(other).of) == wanted
    assert run(third, args, structure=Structures(third).of).cost == wanted
