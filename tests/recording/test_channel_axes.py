"""Which axis holds the channels, and which the samples: derived, or refused."""

from __future__ import annotations

import pytest
import torch
from networks import OneBlock
from torch import Tensor, nn

import sesurgery


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
    assert [(edit.channels, edit.change.layer.axis) for edit in plan.edits] == [(16, 2), (16, 2)]


@pytest.mark.parametrize(("batch", "side"), [(1, 6), (2, 6), (9, 6)])
def test_samples_are_not_mixed(batch: int, side: int) -> None:
    """Nine samples of nine tokens each are told apart too: by where they come from."""
    with pytest.raises(sesurgery.NothingMatchedError, match=r"is \(L, N, C\)"):
        sesurgery.plan(SequenceFirst(), "standard", example_input=(torch.randn(batch, 8, side, side),))


def test_samples_come_back_to_the_first_axis() -> None:
    class Turned(SequenceFirst):
        def forward(self, x: Tensor) -> Tensor:
            tokens = super().forward(x).transpose(1, 2)
            return tokens + self.last(tokens)

    model = Turned()
    model.last = nn.Linear(8, 8)
    plan = sesurgery.plan(model, {"rules": [{"insert": {"module": "se"}, "at": "after linear"}]}, input_size=(8, 6, 6))
    assert [(edit.path, edit.change.layer.axis) for edit in plan.edits] == [("se", 2)]


@pytest.mark.parametrize("batch_first", [True, False])
def test_samples_of_an_input_of_tokens(batch_first: bool) -> None:
    """Where attention runs along the first axis of the input, it holds no samples."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.last = layer, nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.encoder(x)
            return x + self.last(x)

    given = {"recipe": "standard", "example_input": torch.randn(5, 4, 8)}
    if batch_first:
        assert len(sesurgery.plan(Net(), **given).edits) == 1
    else:
        with pytest.raises(sesurgery.NothingMatchedError, match="mixes what lies along the first axis"):
            sesurgery.plan(Net(), **given)


class Windows(nn.Module):
    """A sum on maps that are cut into windows: (N, H / 2, W / 2, 2, 2, C), as written without a reshape to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        cut = x.permute(0, 2, 3, 1).view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3)
        return (cut + self.mlp(cut)).transpose(2, 3).reshape(n, h, w, c).permute(0, 3, 1, 2)


def test_maps_of_any_rank() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = OneBlock(Windows).eval()
    surgery = sesurgery.apply(model, "standard", example_input=x, init="identity")
    assert [(edit.channels, edit.change.layer.axis) for edit in surgery.plan.edits] == [(8, 5)]
    assert torch.equal(model(x), surgery.model(x))
    gate = surgery.model.get_submodule(surgery.plan.edits[0].path)
    windows = torch.randn(2, 4, 4, 2, 2, 8)
    assert gate.squeezed(windows).shape == (2, 1, 1, 1, 1, 8)


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
        sesurgery.plan(OneBlock(Folded), "standard", example_input=torch.randn(1, 3, 8, 8))


class SplitAttention(nn.Module):
    """Sums over the one of two axes into which a view has split the channels: the other holds those that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        parts = y.view(y.shape[0], 2, 8, *y.shape[2:])
        weights = self.fc(parts.sum(1).mean((2, 3))).view(y.shape[0], 2, 8, 1, 1).softmax(1)
        return x + (parts * weights).sum(1)


def test_channels_of_split_attention() -> None:
    stacked = {"rules": [{"insert": {"module": "se"}, "at": "before residual add", "if_present": "stack"}]}
    plan = sesurgery.plan(OneBlock(SplitAttention), stacked, example_input=torch.randn(2, 3, 6, 6))
    assert [(edit.channels, edit.change.layer.axis) for edit in plan.edits] == [(8, 1)]
