"""Backbone, neck and head of detectors, pyramids, U-Nets and DETRs; the end of the backbone; stages of a region."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pyramids import DeepLab, Detr, FlatUNet, RetinaNet, UNet, WithDecoder, yolov5, yolov8, yolov11, yolov12
from torch import Tensor, nn

import sesurgery
from sesurgery.anatomy.anatomy import Anatomy, dissect
from sesurgery.tracing.survey import survey

SIZE = (3, 64, 64)


def anatomy(model: nn.Module) -> Anatomy:
    return dissect(survey(model.eval(), (torch.empty(2, *SIZE, device="meta"),)))


def regions(model: nn.Module, *paths: str) -> dict[str, str]:
    seen = anatomy(model)
    return {path: seen.region_of(seen.survey.module(path)) for path in paths}


def planned(model: nn.Module, at: str = "after conv", **where: object) -> list[str]:
    """The convolutions that get a layer, by their paths."""
    rule = {"insert": {"module": "se"}, "at": at, "where": where}
    plan = sesurgery.plan(model.eval(), {"name": "r", "rules": [rule]}, input_size=SIZE)
    return [edit.path for edit in plan.edits]


@pytest.mark.parametrize(
    ("network", "end"),
    [
        (yolov5, "model.9"),
        (yolov8, "model.9"),
        (yolov11, "model.10"),
        (yolov12, "model.8"),
        (RetinaNet, "body.layer4"),
        (UNet, "down2"),
        (FlatUNet, "mid"),
        (Detr, "body.layer4"),
        (WithDecoder, "body.layer4"),
        (DeepLab, "body.layer4"),
    ],
)
def test_end_of_backbone(network: Callable[[], nn.Module], end: str) -> None:
    plan = sesurgery.plan(network().eval(), "backbone-end", input_size=SIZE)
    assert [edit.path == end or edit.path.startswith(f"{end}.") for edit in plan.edits] == [True]


@pytest.mark.parametrize(("network", "backbone"), [(yolov5, 9), (yolov8, 9), (yolov11, 10), (yolov12, 8)])
def test_regions_of_a_yolo(network: Callable[[], nn.Module], backbone: int) -> None:
    model = network()
    last = len(model.model) - 1
    expected = {f"model.{i}": "backbone" if i <= backbone else "neck" if i < last else "head" for i in range(last + 1)}
    assert regions(model, *expected) == expected


@pytest.mark.parametrize(
    ("network", "backbone", "neck", "head"),
    [
        (RetinaNet, ["body.stem", "body.layer1", "body.layer4"], ["fpn.inner.0", "fpn.outer.0", "fpn.p7"],
         ["classes.tower", "boxes.out"]),
        (UNet, ["inc", "down1", "down2"], ["up1", "up2.conv"], ["outc"]),
        (FlatUNet, ["enc1", "enc2", "mid"], ["dec2", "dec1"], ["out"]),
        (Detr, ["body.layer4"], [], ["project", "names", "boxes"]),
        (WithDecoder, ["body.layer4"], ["up1", "up2"], ["last"]),
        (DeepLab, ["body.layer4"], [], ["classifier", "out"]),
    ],
)  # fmt: skip
def test_regions(network: Callable[[], nn.Module], backbone: list[str], neck: list[str], head: list[str]) -> None:
    expected = dict.fromkeys(backbone, "backbone") | dict.fromkeys(neck, "neck") | dict.fromkeys(head, "head")
    assert regions(network(), *expected) == expected


class Encoder(nn.Module):
    """Returns its input with its maps, as encoders for segmentation do."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = unet.inc, unet.down1, unet.down2

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.inc(x)
        two = self.down1(one)
        return [x, one, two, self.down2(two)]


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        unet = UNet()
        self.encoder, self.up1, self.up2, self.outc = Encoder(unet), unet.up1, unet.up2, unet.outc

    def forward(self, x: Tensor) -> Tensor:
        _, one, two, three = self.encoder(x)
        return self.outc(self.up2(self.up1(three, two), one))


def test_an_encoder_that_returns_its_input_is_the_backbone() -> None:
    expected = {"encoder": "backbone", "encoder.down2": "backbone", "up2": "neck", "outc": "head"}
    assert regions(Segmenter(), *expected) == expected


class TwoThings(nn.Module):
    """A head that returns two things: the only block of a network of plain layers."""

    def __init__(self, wide: int, maps: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.maps = nn.Conv2d(wide, 8, 1), nn.Linear(8, 4), maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        logits = self.fc(y.mean((2, 3)))
        return (y, logits) if self.maps else (logits.softmax(1), logits)


@pytest.mark.parametrize("maps", [True, False])
def test_a_head_that_returns_two_things_is_not_the_end_of_the_backbone(maps: bool) -> None:
    plain = [layer for wide in (3, 8, 8) for layer in (nn.Conv2d(wide, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())]
    plan = sesurgery.plan(nn.Sequential(*plain, TwoThings(8, maps)).eval(), "backbone-end", input_size=SIZE)
    assert [edit.change.layer.shape[2:] for edit in plan.edits] == [(8, 8)]
    assert not plan.edits[0].path.startswith("9.")


class Tiny(nn.Module):
    """Plain layers that share one activation; at the deepest map ways to a head and a neck part (YOLOv3-tiny)."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()

        def layer(wide: int, narrow: int, stride: int = 1) -> nn.Module:
            return Layer(nn.Conv2d(wide, narrow, 3, stride, 1), act)

        self.one, self.two, self.three = layer(3, 8, 2), layer(8, 16, 2), layer(16, 16)
        self.deep, self.lateral, self.fused, self.out = layer(16, 8), layer(16, 8), layer(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one = self.one(x)
        three = self.three(self.two(one))
        up = nn.functional.interpolate(self.lateral(three), scale_factor=2)
        return self.out(self.deep(three)), self.out(self.fused(torch.cat([up, one], 1)))


class Layer(nn.Module):
    def __init__(self, conv: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Decoding(nn.Module):
    """A decoder layer written out: queries look at tokens, in blocks as the encoder has them (DETR)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 16)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(x, memory, memory, need_weights=False)[0]
        return x + self.mlp(x).relu()


class QueryDetr(Detr):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Decoding(), nn.ModuleList([Decoding(), Decoding()])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.project(self.body(x)[-1]).flatten(2).transpose(1, 2)
        tokens = self.encoder(tokens, tokens)
        out = self.queries[:3].expand(x.shape[0], -1, -1)
        for layer in self.decoder:
            out = layer(out, tokens)
        return self.names(out), self.boxes(out)


def test_learned_queries_are_no_deeper_map() -> None:
    plan = sesurgery.plan(QueryDetr().eval(), "backbone-end", input_size=SIZE)
    assert [edit.path.startswith("body.layer4.") for edit in plan.edits] == [True]
    assert regions(QueryDetr(), "decoder.0", "decoder.1") == {"decoder.0": "head", "decoder.1": "head"}


def test_where_ways_part_at_the_deepest_map_the_backbone_ends_before() -> None:
    plan = sesurgery.plan(Tiny().eval(), "backbone-end", input_size=SIZE)
    assert [edit.path for edit in plan.edits] == ["three.se"]
    expected = {"three": "backbone", "lateral": "neck", "fused": "neck", "deep": "head", "out": "head"}
    assert regions(Tiny(), *expected) == expected


def test_stages_are_counted_in_each_region() -> None:
    seen = sesurgery.inspect(RetinaNet().eval(), input_size=SIZE)
    counted = [(stage.region, stage.index, stage.height) for stage in seen.stages]
    assert counted == [
        *(("backbone", index, side) for index, side in ((1, 16), (2, 8), (3, 4), (4, 2))),
        *(("head", index, side) for index, side in ((1, 8),)),
    ]
    assert planned(RetinaNet(), "before residual add", stages="last") == ["body.layer4.1.se", "body.layer4.2.se"]
    inside = planned(RetinaNet(), "before residual add", stages="last", region="head")
    assert inside == ["classes.tower.1.se", "boxes.tower.1.se"]
    with pytest.raises(sesurgery.InputError, match="stages 1-4"):
        planned(RetinaNet(), "before residual add", stages="5")


def test_where_region_narrows() -> None:
    everything = planned(yolov8())
    parts = {region: planned(yolov8(), region=region, type="*") for region in ("backbone", "neck", "head")}
    assert {path.split(".")[1] for path in parts["head"]} == {"22"}
    assert {int(path.split(".")[1]) for path in parts["backbone"]} == set(range(10))
    both = planned(yolov8(), region=["neck", "head"], type="*")
    assert sorted(both) == sorted(parts["neck"] + parts["head"])
    assert set(everything) <= {path for group in parts.values() for path in group}


def test_an_unknown_region_is_named() -> None:
    with pytest.raises(sesurgery.InputError, match='did you mean "neck"'):
        planned(yolov8(), region="nekc")
