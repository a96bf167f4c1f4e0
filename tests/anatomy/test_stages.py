"""Stages of odd networks are those of their plain twins: dilated ones, tiny maps, traced ones, one long forward."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import sesurgery

IMAGE = torch.empty(1, 3, 64, 64, device="meta")


def counted(model: nn.Module, image: Tensor = IMAGE) -> dict[str, int | None]:
    """The stage of every sum, by its path."""
    merges = sesurgery.inspect(model.to("meta"), example_input=image.to("meta")).merges
    return {merge.path: merge.stage for merge in merges if merge.op == "add"}


def resnet(**more: object) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.resnet50(**more)


@pytest.mark.parametrize("dilated", [[False, False, True], [False, True, True], [True, True, True]])
def test_dilation_keeps_stages_apart(dilated: list[bool]) -> None:
    assert counted(resnet(replace_stride_with_dilation=dilated)) == counted(resnet())


def test_a_stage_of_one_place_is_a_stage() -> None:
    assert counted(resnet(), torch.empty(1, 3, 32, 32)) == counted(resnet())


# The first block of MobileNetV2 has a stage of its own and no sum.
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_a_traced_network_counts_as_its_twin(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name).eval()
    traced = sesurgery.inspect(torch.fx.symbolic_trace(model), example_input=IMAGE)
    whole = sesurgery.inspect(model, example_input=IMAGE)
    sums = [[merge.stage for merge in each.merges if merge.op == "add"] for each in (traced, whole)]
    assert sums[0] == sums[1]
    assert [(stage.index, stage.height) for stage in traced.stages] == [(s.index, s.height) for s in whole.stages]


class Dense(nn.Module):
    """Concats at two resolutions, written in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2)
        self.a, self.b, self.c = (nn.Conv2d(width, 8, 3, padding=1) for width in (8, 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.a(x)], 1)
        x = self.pool(x)
        x = torch.cat([x, self.b(x)], 1)
        return torch.cat([x, self.c(x)], 1).mean((2, 3))


def test_concats_in_one_forward_are_counted_without_the_stem() -> None:
    seen = sesurgery.inspect(Dense(), input_size=(3, 32, 32))
    assert [(stage.index, stage.height) for stage in seen.stages] == [(1, 16), (2, 8)]
    assert [merge.stage for merge in seen.merges] == [1, 2, 2]


@pytest.mark.parametrize("side", [64, 256])
def test_tokens_of_several_windows_belong_to_the_stage_of_their_map(side: int) -> None:
    """MobileViT's transformers take every second place of a map as a sample of its own: (4 N, L / 4, C)."""
    with torch.device("meta"):
        model = timm.create_model("mobilevit_xxs")
    stages = counted(model, torch.empty(1, 3, side, side))
    transformers = {path: stage for path, stage in stages.items() if ".transformer." in path}
    assert {(path[:8], stage) for path, stage in transformers.items()} == {(f"stages.{n}", n + 1) for n in (2, 3, 4)}
