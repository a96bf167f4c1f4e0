"""Gates that are written out in a forward leave the author's text: the product, and what only fed it."""

from __future__ import annotations

import copy
from typing import Any

import networks
import pytest
import torch
from checks import check_operated, check_same
from networks import conv
from torch import Tensor, nn
from torch.nn import functional as F

import sesurgery
from sesurgery.testing import assert_forward

IMAGE = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))


class Channel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Spatial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(), nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.ca, self.sa = conv(), Channel(), Spatial()


class Bare(nn.Module):
    """What is left of each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Straight(Squeezing):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        w = F.adaptive_avg_pool2d(y, 1)  # squeeze
        # excite
        w = torch.sigmoid(self.fc(w))
        return x + y * w


class InPlace(Squeezing):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        w = self.fc(y.mean((2, 3), keepdim=True))
        w = torch.sigmoid(w)
        y *= w
        return x + y


class Inline(Squeezing):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y * torch.sigmoid(self.fc(y.mean((2, 3), keepdim=True)))


class Cbam(Gated):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = self.ca(y) * y
        y = self.sa(y) * y
        return x + y


class CbamInOneLine(Gated):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * self.ca(y)
        return x + y * self.sa(y)


STRIPPED = {
    Straight: """
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            # excite
            return x + y
    """,
    InPlace: """
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return x + y
    """,
    Inline: """
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return x + y
    """,
    Cbam: """
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return x + y
    """,
    CbamInOneLine: """
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return x + y
    """,
}


def net(kind: type[nn.Module]) -> nn.Module:
    return networks.lively(nn.Sequential(conv(), kind()))


def bare(model: nn.Module) -> nn.Module:
    """The model with a block that has no gates, and the same weights."""
    other = net(Bare)
    other.load_state_dict({key: model.state_dict()[key] for key in other.state_dict()})
    return other


@pytest.mark.parametrize("kind", STRIPPED)
def test_the_text_without_the_gates(kind: type[nn.Module]) -> None:
    (change,) = sesurgery.plan(net(kind), "strip-attention", example_input=IMAGE).diffs
    recipe = sesurgery.load_recipe("strip-attention")
    assert_forward(net(kind), recipe, change.before, STRIPPED[kind], example_input=IMAGE)


@pytest.mark.parametrize("kind", STRIPPED)
def test_what_is_left_computes_what_the_bare_block_does(kind: type[nn.Module]) -> None:
    model = net(kind)
    surgery = sesurgery.apply(model, "strip-attention", example_input=IMAGE)
    assert list(surgery.model.state_dict()) == list(bare(model).state_dict())
    check_same(bare(model), copy.deepcopy(surgery.model), IMAGE)
    assert torch.equal(sesurgery.revert(surgery.model).eval()(IMAGE), model.eval()(IMAGE))


SWAPPED = {
    Straight: "return x + self.eca(y)",
    InPlace: "y = self.eca(y)",
    Inline: "return x + self.eca(y)",
    Cbam: "y = self.eca(y)",
}


@pytest.mark.parametrize("kind", SWAPPED)
def test_a_layer_takes_the_place_of_the_gates(kind: type[nn.Module]) -> None:
    model = net(kind)
    surgery = sesurgery.apply(model, "swap-attention", example_input=IMAGE)
    (change,) = surgery.plan.diffs
    paths = [edit.path for edit in surgery.plan.edits]
    assert len(paths) == len(set(paths))
    assert SWAPPED[kind] in change.after
    assert change.after.count("self.eca(") == 1
    check_operated(model, surgery.model, IMAGE)


class ScSE(Gated):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + (y * self.ca(y) + y * self.sa(y))


class Coordinates(Squeezing):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        h = torch.sigmoid(self.fc(y.mean(2, keepdim=True)))
        w = torch.sigmoid(self.fc(y.mean(3, keepdim=True)))
        return x + y * h * w


def stripped(model: nn.Module) -> tuple[nn.Module | None, str]:
    """The model without its attention, or why not."""
    try:
        return sesurgery.apply(model, "strip-attention", example_input=IMAGE).model, ""
    except sesurgery.NothingMatchedError as refusal:
        return None, str(refusal)


@pytest.mark.parametrize("kind", [ScSE, Coordinates])
def test_gates_that_belong_together_go_together_or_stay(kind: type[nn.Module]) -> None:
    model = net(kind)
    operated, reason = stripped(model)
    if operated is None:
        assert "line " in reason
    else:
        assert torch.allclose(operated.eval()(IMAGE), bare(model).eval()(IMAGE), atol=1e-6)


class Keeping(Squeezing):
    """What feeds the gate is kept for somebody to look at."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        w = self.fc(y.mean((2, 3), keepdim=True))
        self.last = w
        return x + y * torch.sigmoid(w)


class Branching(Squeezing):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        w = torch.sigmoid(self.fc(y.mean((2, 3), keepdim=True)))
        if self.training:
            return x + y * w
        return x + y * w


class Returned(Squeezing):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        w = torch.sigmoid(self.fc(y.mean((2, 3), keepdim=True)))
        return x + y * w, w


@pytest.mark.parametrize("kind", [Keeping, Branching, Returned])
def test_what_somebody_else_reads_stays(kind: type[nn.Module]) -> None:
    """Refused with the line, or what else the forward does is as it was."""
    model = net(kind)
    operated, reason = stripped(model)
    if operated is None:
        assert "NameError" not in reason
        assert "line " in reason
        return
    for training in (False, True):
        ours, theirs = (each.train(training)(IMAGE) for each in (operated, model))
        if kind is Returned:
            assert torch.equal(ours[1], theirs[1])
        if kind is Keeping:
            assert torch.equal(operated[1].last, model[1].last)  # type: ignore[index]
        if kind is Branching:
            assert torch.equal(ours, bare(model).train(training)(IMAGE))
