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


class SE(nn.Module):
    """Squeeze-and-excitation as people write it, (N, C, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x)


def trains_alike(net: Net, model: nn.Module, x: Tensor) -> bool:
    """Whether two networks give the same output and the same gradients, of stem and first block (of class ``Two``)."""
    results = []
    for each in (net, model):
        output = each(x)
        output.square().sum().backward()
        results.append([output, *(parameter.grad for parameter in (each.stem.weight, each.blocks[0].b.weight))])
    pairs = zip(*results, strict=True)
    return all(
        one is two is None or (one is not None and two is not None and torch.equal(one, two)) for one, two in pairs
    )
