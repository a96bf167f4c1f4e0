"""Attention that a network has is seen however it is written: it leaves as a whole, and nothing is stacked on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgery

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gate(channels: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.Sigmoid())


class Channel(nn.Module):
    """Only the gate of a channel attention, (N, C, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(F.adaptive_max_pool2d(x, 1)))


class Place(nn.Module):
    """Only the gate of a spatial attention, (N, 1, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Se(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = Channel(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Cbam(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel, self.place = Channel(channels), Place(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel(x) * x
        return self.place(x) * x


class Chained(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two, self.drop = Se(channels), Se(channels), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.two(self.one(x)))


class ScSe(Cbam):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.channel(x) + x * self.place(x)


class ScSeMax(Cbam):
    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x * self.channel(x), x * self.place(x))


class Bam(Cbam):
    def forward(self, x: Tensor) -> Tensor:
        return (1 + torch.sigmoid(self.channel(x) * self.place(x))) * x


class Coordinates(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.h, self.w = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        rows, columns = torch.split(F.hardswish(self.squeeze(torch.cat([rows, columns], 2))), [height, width], 2)
        return x * self.w(columns.permute(0, 1, 3, 2)).sigmoid() * self.h(rows).sigmoid()


class SimAm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        apart = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        return x * self.act(apart / (4 * (apart.sum(dim=[2, 3], keepdim=True) / 63 + 1e-4)) + 0.5)


class Eca(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        return x * self.conv(y).transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(x)


WHOLE = [Se, Cbam, Chained, ScSe, ScSeMax, Bam, Coordinates, SimAm, Eca]


class Selective(nn.Module):
    """SK: two convolutions, weighed by what both say; its product is no gate of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near, self.far = (nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in (1, 2))
        self.fc = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.near(x), self.far(x)
        weights = self.fc(F.adaptive_avg_pool2d(near + far, 1)).unflatten(1, (2, -1)).softmax(1)
        return near * weights[:, 0] + far * weights[:, 1]


class SelectiveStack(Selective):
    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.near(x), self.far(x)], 1)
        weights = self.fc(F.adaptive_avg_pool2d(both.sum(1), 1)).unflatten(1, (2, -1)).softmax(1)
        return (both * weights).sum(1)


class Block(nn.Module):
    def __init__(self, kind: type[nn.Module] | None, channels: int = 8) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1) for _ in "ab")
        self.there = nn.Identity() if kind is None else kind(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.there(self.b(torch.relu(self.a(x))))


class Ended(nn.Module):
    """The branch is one Sequential, with the attention at its end."""

    def __init__(self, kind: type[nn.Module] | None, channels: int = 8) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in "ab"]
        there = nn.Identity() if kind is None else kind(channels)
        self.body = nn.Sequential(convs[0], nn.ReLU(), nn.Sequential(convs[1], there))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def net(block: type[nn.Module], *kinds: type[nn.Module] | None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *(block(kind) for kind in kinds)).eval()


def where(block: type[nn.Module]) -> str:
    return "there" if block is Block else "body.2.1"


@pytest.mark.parametrize("block", [Block, Ended])
@pytest.mark.parametrize("kind", [*WHOLE, Selective, SelectiveStack])
def test_nothing_is_stacked_on_it(block: type[nn.Module], kind: type[nn.Module]) -> None:
    plan = sesurgery.plan(net(block, kind, None), "standard", example_input=IMAGE)
    assert [edit.host for edit in plan.edits] == ["2"]
    assert [skip.path for skip in plan.skipped if "already has attention" in skip.reason] == [
        "1.there" if block is Block else "1.body"
    ]


@pytest.mark.parametrize("block", [Block, Ended])
@pytest.mark.parametrize("kind", WHOLE)
def test_it_leaves_as_a_whole(block: type[nn.Module], kind: type[nn.Module]) -> None:
    model, bare = net(block, kind, kind), net(block, None, None)
    bare.load_state_dict(model.state_dict(), strict=False)
    surgery = sesurgery.apply(model, "strip-attention", example_input=IMAGE)
    assert [edit.path for edit in surgery.plan.edits] == [f"1.{where(block)}", f"2.{where(block)}"]
    with torch.no_grad():
        assert torch.equal(surgery.model(IMAGE), bare(IMAGE))


@pytest.mark.parametrize("block", [Block, Ended])
@pytest.mark.parametrize("kind", WHOLE)
def test_it_is_replaced_where_it_stands(block: type[nn.Module], kind: type[nn.Module]) -> None:
    rule = {"insert": {"module": "eca"}, "at": "before residual add", "if_present": "replace"}
    plan = sesurgery.plan(net(block, kind, kind), {"name": "r", "rules": [rule]}, example_input=IMAGE)
    assert [(edit.path, edit.route) for edit in plan.edits] == [
        (f"1.{where(block)}", "child"),
        (f"2.{where(block)}", "child"),
    ]


def test_what_is_more_than_attention_stays() -> None:
    with pytest.raises(sesurgery.NothingMatchedError):
        sesurgery.plan(net(Block, Selective), "strip-attention", example_input=IMAGE)


class Glu(nn.Module):
    """A gated linear unit and a self-gated activation: no attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, weight = self.wide(x).chunk(2, 1)
        value = value * weight.sigmoid()
        return value * value.sigmoid()


def test_gated_units_are_no_attention() -> None:
    plan = sesurgery.plan(net(Block, Glu, Glu), "standard", example_input=IMAGE)
    assert [edit.host for edit in plan.edits] == ["1", "2"]
