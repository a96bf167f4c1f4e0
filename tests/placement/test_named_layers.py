"""Every layer that a phrase names is edited or listed, wherever it lies, and its paths find it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from checks import rule
from detectors import Yolo
from torch import Tensor, nn
from torch.nn import functional as F

import sesurgery
from sesurgery.errors import RecipeError

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SE = {"module": "se"}


def plan(model: nn.Module, **parts: Any) -> sesurgery.Plan:
    return sesurgery.plan(model, rule(**parts), example_input=X)


def paths(plan: sesurgery.Plan) -> list[str]:
    return [edit.path for edit in plan.edits]


def own(net: nn.Module, kind: type[nn.Module]) -> Iterator[str]:
    return (path for path, module in net.named_modules() if isinstance(module, kind))


@pytest.mark.parametrize(("at", "kind"), [("conv", nn.Conv2d), ("norm", nn.BatchNorm2d), ("activation", nn.SiLU)])
def test_what_is_replaced_is_meant_in_the_whole_model(at: str, kind: type[nn.Module]) -> None:
    change = {"conv": {"kernel": 5}, "norm": {"norm": "group"}, "activation": {"activation": "relu"}}[at]
    done = plan(Yolo(), replace=change, at=at)
    assert sorted([*paths(done), *(skip.path for skip in done.skipped)]) == sorted(own(Yolo(), kind))


@pytest.mark.parametrize("at", ["after conv", "before conv", "after conv, bare"])
def test_places_of_convolutions_are_those_of_the_blocks_and_the_others_are_listed(at: str) -> None:
    done = plan(Yolo(), insert=SE, at=at)
    assert len(done.edits) + len(done.skipped) == len(list(own(Yolo(), nn.Conv2d)))
    assert {skip.reason.partition(";")[0] for skip in done.skipped} == {"in no block"}
    assert "model.0.conv" in {skip.path for skip in done.skipped}
    assert paths(plan(Yolo(), insert=SE, at=at, where={"path": "model.0.conv"})) != []


def test_before_and_behind_a_convolution_and_its_norm() -> None:
    net = torchvision.models.resnet18().eval()
    order: list[str] = []
    for at in ("before conv 2", "after conv 2, bare", "after conv 2"):
        surgery = sesurgery.apply(net, rule(insert=SE, at=at, where={"path": "layer1.0.*"}), example_input=X)
        block = surgery.model.get_submodule("layer1.0")
        layer = surgery.plan.edits[0].name
        calls: list[str] = []
        for name in ("conv2", "bn2", layer):
            block.get_submodule(name).register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        surgery.model(X)
        order.append(" ".join("se" if name == layer else name for name in calls))
    assert order == ["se conv2 bn2", "conv2 se bn2", "conv2 bn2 se"]


@pytest.mark.parametrize(
    "path", ["layer4.0.*", "layer4.0.se", "layer4.0", "layer4.0.bn2", "layer4.0.s?"], ids=lambda path: path
)
def test_each_name_of_a_place_finds_it(path: str) -> None:
    net = torchvision.models.resnet18()
    assert paths(plan(net, insert=SE, at="before residual add", where={"path": path})) == ["layer4.0.se"]


def test_a_class_around_narrows_and_a_number_counts_in_the_class_that_type_names() -> None:
    second = plan(Yolo(), insert=SE, at="after conv 2", where={"type": "C3"})
    hosts = ["model.2.m.0", "model.4.m.0", "model.6.m.0", "model.11.m.0", "model.14.m.0"]
    assert [edit.host for edit in second.edits] == hosts
    inside = plan(Yolo(), replace={"activation": "relu"}, at="on module", where={"type": "SiLU", "inside": "SPPF"})
    assert paths(inside) == ["model.7.cv1.act", "model.7.cv2.act"]


def test_a_phrase_of_modules_has_to_name_some() -> None:
    with pytest.raises(RecipeError, match=r'"after module" is about every module; name those that are meant'):
        plan(Yolo(), insert=SE, at="after module")


class OwnConv(nn.Module):
    """A convolution by a function of torch, with a weight of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, padding=1)


class OwnBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.bn = OwnConv(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.bn(self.conv(x)))


def test_a_convolution_of_the_authors_own_class_is_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), OwnBlock(8), OwnBlock(8))
    done = plan(net, insert=SE, at="after spatial conv", where={"kernel": 3})
    assert paths(done) == ["1.se", "2.se"]
    assert "self.se(F.relu(self.bn(self.conv(x))))" in done.diffs[0].after
    acts = sesurgery.NothingMatchedError
    with pytest.raises(acts, match="it is written in the forward of OwnBlock, and no layer"):
        plan(net, replace={"activation": "silu"}, at="activation")


class Preactivated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(y)))


def test_in_a_preactivation_block_the_norm_behind_a_convolution_is_the_next_ones() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Preactivated(8), Preactivated(8))
    done = plan(net, insert=SE, at="after conv 1")
    assert "y = self.se(self.conv1(F.relu(self.bn1(x))))" in done.diffs[0].after


class Fork(nn.Module):
    """Two like branches, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.pointwise = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.dense(x) + self.pointwise(x))


def test_after_a_sum_of_like_branches() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Fork(8), Fork(8))
    counts = sesurgery.places(net, example_input=X)
    done = plan(net, insert=SE, at="after sum of like branches") if counts["after sum of like branches"] else None
    assert done is not None
    assert "self.se(F.relu(self.dense(x) + self.pointwise(x)))" in done.diffs[0].after
    assert counts["conv"] == 5
    assert counts["before residual add"] == 0


class Several(nn.Module):
    """Three branches of one fork, and a part of it as it is, concatenated; or the outputs of three layers in a row."""

    def __init__(self, width: int, row: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.out, self.row = nn.Conv2d(3 * width + 4, width, 1), row

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(a if self.row else x)
        c = self.c(b if self.row else x)
        return self.out(torch.cat([a, b, c, x[:, :4]], 1))


def test_parallel_branches_make_an_inception_block_whatever_it_is_called() -> None:
    nets = [nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Several(8, row), Several(8, row)) for row in (False, True)]
    assert paths(sesurgery.plan(nets[0], "inception", example_input=X)) == ["1.se", "2.se"]
    with pytest.raises(sesurgery.NothingMatchedError, match="has no parallel branches"):
        sesurgery.plan(nets[1], "inception", example_input=X)


@pytest.mark.parametrize("key", ["type", "inside"])
def test_a_class_that_the_model_does_not_have_is_named_with_the_nearest(key: str) -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match='no module of class "SPFF"; did you mean "SPPF"'):
        plan(Yolo(), insert=SE, at="after module", where={key: "SPFF"})


class Head(nn.Module):
    """Returns its inputs beside what it makes of them, each read again and again, as heads of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.names = (nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in "ab") for _ in "ab")

    def look(self, x: list[Tensor], layers: nn.ModuleList) -> Tensor:
        return torch.cat([layers[i](x[i]).flatten(2) for i in range(len(x))], 2)

    def forward(self, x: list[Tensor]) -> dict[str, Any]:
        return {"boxes": self.look(x, self.boxes), "names": self.look(x, self.names), "maps": x}


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), Head()

    def forward(self, x: Tensor) -> dict[str, Any]:
        one = self.one(x)
        return self.head([one, self.two(one)])


def test_before_a_head_that_returns_its_inputs_too() -> None:
    model = Detector().eval()
    surgery = sesurgery.apply(model, rule(insert=SE, at="before module", where={"type": "Head"}), example_input=X)
    assert [edit.path for edit in surgery.plan.edits] == ["head.se", "head.se_pre"]
    gated = surgery.model.head
    one = model.one(X)
    maps = surgery.model(X)["maps"]
    assert torch.equal(maps[0], gated.se(one))
    assert torch.equal(maps[1], gated.se_pre(model.two(one)))
