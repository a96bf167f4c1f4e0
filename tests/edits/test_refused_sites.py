"""Activations that no layer can take: samples among the channels, complex numbers; options that no rule takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import UnknownNameError
from sesurgery.plans import Plan


class Dynamic(nn.Module):
    """Each sample has a kernel of its own, for which the samples lie among the channels (CondConv, StyleGAN2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernels = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.randn(4, 8 * 8 * 9))
        self.choice, self.end = nn.Linear(8, 4), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        kernels = (self.choice(x.mean((2, 3))).softmax(1) @ self.kernels).view(n * c, c, 3, 3)
        y = torch.relu(F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n))
        return x + self.end(y.view(n, c, h, w))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 8, 3, 3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(self.stem(x), self.stem(-x))
        return (z + F.conv2d(z, self.kernel, padding=1)).abs()


def plan(model: nn.Module, at: str) -> Plan:
    rules = [{"insert": {"module": "se", "rd_channels": 2}, "at": at} for at in (at, "after conv")]
    return sesurgery.plan(model, {"name": "test", "rules": rules}, example_input=torch.randn(1, 3, 8, 8))


def test_samples_that_lie_among_the_channels() -> None:
    planned = plan(Dynamic(), "after spatial conv")
    assert "its kernels are made from the input" in " ".join(skip.reason for skip in planned.skipped)
    assert {edit.path for edit in planned.edits if edit.step == 0} == {"se", "se_conv"}
    operated = sesurgery.apply(Dynamic(), planned, example_input=torch.randn(1, 3, 8, 8)).model
    assert operated(torch.randn(4, 3, 8, 8)).shape == (4, 8, 8, 8)


def test_complex_numbers() -> None:
    planned = plan(Complex(), "before residual add")
    assert "complex numbers" in " ".join(skip.reason for skip in planned.skipped)
    assert planned.edits


def test_an_argument_that_a_recipe_has_no_use_for_is_not_said_to_be_misspelt() -> None:
    with pytest.raises(UnknownNameError, match='unknown option "init"; options are with_norm'):
        sesurgery.plan(Dynamic(), "strip-attention", init="identity")
