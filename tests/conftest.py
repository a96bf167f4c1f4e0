"""What every test shares: one thread, fixed seeds, and small models on disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

NET = """
import torch
from torch import nn

SCALE = torch.tensor([2.0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.bn(self.conv(x))


class Net(nn.Module):
    def __init__(self, width=8, depth=2):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def net(width=8, depth=2):
    return Net(width, depth)
"""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def write_net(tmp_path: Path) -> Callable[..., Path]:
    """Write Python source (a small residual network where none is given) to a file and return its path."""

    def write(source: str = NET, name: str = "net.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    return write
