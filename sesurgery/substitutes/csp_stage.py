"""A cross-stage partial stage: a part of the channels goes through the blocks, the rest around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CSPStage(nn.Module):
    """``cat(blocks(x[:, :a]), x[:, a:])`` over the channels of a map (N, C, H, W) (Wang et al. 2019, arXiv:1911.11929).

    Args:
        blocks: the blocks, in order.
        widths: how many channels go through the blocks, and how many around; their sum is C.
        inner: channels at which the blocks work. Where that is not ``widths[0]``, a 1x1 convolution with norm and
            ReLU leads in, and one with a norm leads out.
    """

    def __init__(self, blocks: Sequence[nn.Module], widths: tuple[int, int], inner: int) -> None:
        super().__init__()
        through, _ = self.widths = widths
        same = inner == through
        self.enter = nn.Identity() if same else _pointwise(through, inner, nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*blocks)
        self.leave = nn.Identity() if same else _pointwise(inner, through)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        # Slices, not a split: the blocks may begin with a layer that works in place.
        part, rest = x[:, : self.widths[0]], x[:, self.widths[0] :]
        return torch.cat((self.leave(self.blocks(self.enter(part))), rest), dim=1)

    def extra_repr(self) -> str:
        """How the channels are split."""
        return f"{self.widths[0]} channels through the blocks, {self.widths[1]} around"


def _pointwise(channels: int, out: int, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), *more)
