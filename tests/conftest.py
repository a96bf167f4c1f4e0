"""What every test shares: one thread, fixed seeds, and small models on disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import SOURCE

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def write_net(tmp_path: Path) -> Callable[..., Path]:
    """Write Python source (a small residual network where none is given) to a file and return its path."""

    def write(source: str = SOURCE, name: str = "net.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    return write
