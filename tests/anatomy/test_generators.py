"""Blocks that make their map larger are blocks, as a pyramid's sums are not. A spectrum is no smaller map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks import lively
from torch import Tensor, nn

import sesurgery


def conv(i: int = 8, o: int = 8, k: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, stride, k // 2)


class Norm(nn.Module):
    """A norm by class: its scale and shift come from an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = nn.BatchNorm2d(8, affine=False), nn.Embedding(4, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) * self.scale(y)[:, :, None, None]


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.conv1, self.conv2, self.short = conv(), conv(), conv(k=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(h, y))) + self.short(F.interpolate(x, scale_factor=2))


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.blocks, self.end = nn.Linear(6, 8 * 16), nn.ModuleList([Up(), Up()]), conv(8, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.start(z).view(-1, 8, 4, 4)
        for block in self.blocks:
            h = block(h, y)
        return torch.tanh(self.end(h))


class Spectral(nn.Module):
    """A fast Fourier convolution beside a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local, self.spectrum = conv(3, 8), conv(), conv(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        f = torch.fft.rfft2(x)
        real, imaginary = F.relu(self.spectrum(torch.cat((f.real, f.imag), 1))).chunk(2, 1)
        return x + self.local(x) + torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:])


def test_a_generator_s_block_is_residual_and_is_done_again_on_what_it_was_planned_on() -> None:
    model, given = lively(Generator()), (torch.randn(1, 6), torch.tensor([1]))
    surgery = sesurgery.apply(model, "standard", init="identity", example_input=given)
    assert [edit.path for edit in surgery.plan.edits] == ["blocks.0.se", "blocks.1.se"]
    assert sesurgery.verify(model, surgery.model, example_input=given)
    assert sesurgery.verify(model, sesurgery.apply(model, surgery.plan).model, example_input=given)


def test_a_branch_through_a_spectrum_is_a_branch() -> None:
    model, x = lively(Spectral()), torch.randn(1, 3, 16, 16)
    surgery = sesurgery.apply(model, "standard", init="identity", example_input=x)
    assert len(surgery.plan.edits) == 2
    assert sesurgery.verify(model, surgery.model, example_input=x)
