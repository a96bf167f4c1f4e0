"""A wrapper that makes any node start as the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IdentityStart(nn.Module):
    """``x + scale * (node(x) - x)`` with a learned scale that starts at 0 (ReZero, Bachlechner et al. 2020,
    arXiv:2003.04887): at insertion the output is ``x``, at scale 1 it is the node's own.

    Input and output have the shape that ``node`` keeps.
    """

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.node = node
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of ``x`` in, the same out."""
        return x + self.scale * (self.node(x) - x)
