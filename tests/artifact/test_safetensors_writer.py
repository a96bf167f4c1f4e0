"""The writer of safetensors files writes what the library reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sesurgery.artifact.safetensors_writer import DTYPES, write_tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_writer_writes_what_the_library_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "ü.scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
        "wide": torch.ones(5, 3, dtype=torch.float64),
        "odd": torch.arange(7).reshape(7, 1).to(dtype),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    save_file(tensors, tmp_path / "y.safetensors", metadata={"format": "pt"})
    ours, theirs = load_file(tmp_path / "x.safetensors"), load_file(tmp_path / "y.safetensors")
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].shape == theirs[key].shape
        assert torch.equal(ours[key].reshape(-1).view(torch.uint8), theirs[key].reshape(-1).view(torch.uint8))
