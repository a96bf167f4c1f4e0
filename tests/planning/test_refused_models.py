"""Models without a Python forward to look at, and models that torch runs itself: said by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from networks import Short
from torch import nn

import sesurgery
from sesurgery.errors import ModelError


def test_what_torch_runs_itself_is_named_where_nothing_matches() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    with pytest.raises(sesurgery.NothingMatchedError, match="torch's own MultiheadAttention, TransformerEncoderLayer"):
        sesurgery.apply(nn.Sequential(layer), "standard", example_input=torch.randn(1, 7, 32))


def test_what_has_no_python_forward_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scripting is deprecated, and still in use
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
    image = torch.randn(1, 8, 4, 4)
    with pytest.raises(ModelError, match=r"1 is a ScriptModule.*operate first"):
        sesurgery.apply(nn.Sequential(Short(), scripted), "standard", example_input=(image,))
    lazy = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), Short())
    with pytest.raises(ModelError, match="run the model once"):
        sesurgery.apply(lazy, "standard", example_input=(image,))
