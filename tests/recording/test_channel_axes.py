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


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_are_not_mixed(batch: int) -> None:
    with pytest.raises(sesurgery.NothingMatchedError, match=r"is \(L, N, C\)"):
        sesurgery.plan(SequenceFirst(), "standard", example_input=(torch.randn(batch, 8, 6, 6),))


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
