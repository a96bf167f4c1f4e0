"""What the files of ``tests/cases`` are written with: a small network around blocks, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

torch.manual_seed(0)


def verdict(problem: str) -> NoReturn:
    """Print and end: PASS where there is no problem."""
    print(f"FAIL: {problem}" if problem else "PASS")
    raise SystemExit(bool(problem))


class Net(nn.Module):
    """A stem, two blocks and a classifier, (N, 3, H, W) to (N, 3)."""

    def __init__(self, block: Callable[[int], nn.Module], width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(block(width), block(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).float().mean((2, 3)))


class Two(nn.Module):
    """Two convolutions, for a block to be written with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
