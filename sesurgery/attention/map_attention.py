"""Attention on maps (N, C, H, W) that timm does not have, with the numbers of the papers' published code.

Every class takes a map and gives one of the same shape; none is bound to a height or width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.attention.activations import act_class, gate_class, new_act
from sesurgery.attention.port import Port, divides
from sesurgery.attention.widths import squeezed
from sesurgery.errors import Unfit


class SimAM(nn.Module):
    """``x * sigmoid(energy(x))`` without parameters (Yang et al. 2021, ICML)."""

    def __init__(self, e_lambda: float = 1e-4) -> None:
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        squares = (x - x.mean((2, 3), keepdim=True)).square()
        variance = squares.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3] - 1, 1)
        return x * torch.sigmoid(squares / (4 * (variance + self.e_lambda)) + 0.5)

    def extra_repr(self) -> str:
        """The regulariser."""
        return f"e_lambda={self.e_lambda:g}"


class SelectiveConv(nn.Module):
    """A selective kernel of two plain convolutions, 3x3 and 3x3 dilated by 2, each with a norm and no activation.

    (N, in_channels, H, W) in, (N, out_channels, H / stride, W / stride) out.

    Args:
        hidden: width between the two layers that weigh the paths.
        shared: each channel has one weight, which both paths share (halves everywhere if ``softmax`` is ``paths``).
        softmax: over the two ``paths`` of each channel, as in the paper, or over ``all`` weights, as in some code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        stride: int = 1,
        groups: int = 1,
        act: Callable[..., nn.Module] = nn.Identity,
        shared: bool = False,
        softmax: str = "paths",
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 3, stride, step, step, groups, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            for step in (1, 2)
        )
        self.fc1, self.act = nn.Linear(out_channels, hidden), new_act(act)
        self.fc2 = nn.Linear(hidden, out_channels if shared else 2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        maps = torch.stack([path(x) for path in self.paths], 1)
        hidden = self.act(self.fc1(maps.sum(1).mean((2, 3))))
        weights = self.fc2(hidden).unflatten(1, (-1, maps.shape[2])).expand(-1, 2, -1)
        axes = weights.flatten(1) if self.softmax == "all" else weights
        return (maps * axes.softmax(1).view(*weights.shape, 1, 1)).sum(1)

    def extra_repr(self) -> str:
        """Over which weights the softmax runs."""
        return f"softmax={self.softmax}"


class EMA(nn.Module):
    """Efficient multi-scale attention (Ouyang et al. 2023, arXiv:2305.13563): two branches weigh each other."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.groups, width = groups, channels // groups
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, kernel_size=1)
        self.conv3x3 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        height, width = x.shape[2:]
        group = x.reshape(x.shape[0] * self.groups, -1, height, width)
        rows, columns = group.mean(3, keepdim=True), group.mean(2, keepdim=True)
        both = self.conv1x1(torch.cat([rows, columns.transpose(2, 3)], 2))
        rows, columns = both.split([height, width], 2)
        fine = self.gn(group * rows.sigmoid() * columns.transpose(2, 3).sigmoid())
        coarse = self.conv3x3(group)
        weights = self._across(fine, coarse) + self._across(coarse, fine)
        gate = weights.reshape(group.shape[0], 1, height, width).sigmoid()
        return (group * gate).reshape(x.shape)

    def _across(self, one: Tensor, two: Tensor) -> Tensor:
        """Each place of ``two``, weighed by the channels of ``one``: (N * groups, 1, H * W)."""
        return one.mean((2, 3)).softmax(1).unsqueeze(1) @ two.flatten(2)


class GAM(nn.Module):
    """Global attention (Liu et al. 2021, arXiv:2112.05561): a bottleneck at each position, then one of 7x7 kernels."""

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        kernel_size: int = 7,
        act: Callable[..., nn.Module] = nn.ReLU,
        gate: Callable[..., nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.fc1, self.act1 = nn.Linear(channels, rd_channels), new_act(act)
        self.fc2, self.gate1 = nn.Linear(rd_channels, channels), gate()
        self.conv1 = nn.Conv2d(channels, rd_channels, kernel_size, padding=kernel_size // 2)
        self.bn1, self.act2 = nn.BatchNorm2d(rd_channels), new_act(act)
        self.conv2 = nn.Conv2d(rd_channels, channels, kernel_size, padding=kernel_size // 2)
        self.bn2, self.gate2 = nn.BatchNorm2d(channels), gate()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        channel = self.fc2(self.act1(self.fc1(x.permute(0, 2, 3, 1))))
        x = x * self.gate1(channel.permute(0, 3, 1, 2))
        return x * self.gate2(self.bn2(self.conv2(self.act2(self.bn1(self.conv1(x))))))


class ShuffleAttention(nn.Module):
    """Shuffle attention (Zhang & Yang 2021, arXiv:2102.00240): a channel gate for half of each group."""

    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        self.groups, width = groups, channels // (2 * groups)
        self.cweight, self.sweight = (nn.Parameter(torch.zeros(1, width, 1, 1)) for _ in range(2))
        self.cbias, self.sbias = (nn.Parameter(torch.ones(1, width, 1, 1)) for _ in range(2))
        self.gn = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        one, two = x.reshape(x.shape[0] * self.groups, -1, *x.shape[2:]).chunk(2, 1)
        one = one * torch.sigmoid(self.cweight * one.mean((2, 3), keepdim=True) + self.cbias)
        two = two * torch.sigmoid(self.sweight * self.gn(two) + self.sbias)
        joined = torch.cat([one, two], 1).reshape(x.shape[0], 2, -1, *x.shape[2:])
        return joined.transpose(1, 2).reshape(x.shape)

    def extra_repr(self) -> str:
        """The number of groups."""
        return f"groups={self.groups}"


class TripletAttention(nn.Module):
    """Triplet attention (Misra et al. 2021, arXiv:2010.03045): the mean of x gated across three pairs of its axes."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.height, self.width, self.space = (self._gate(kernel_size) for _ in range(3))

    @staticmethod
    def _gate(kernel_size: int) -> nn.Module:
        conv = nn.Conv2d(2, 1, kernel_size, padding=(kernel_size - 1) // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(1, momentum=0.01), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        height = self._gated(x.transpose(1, 2), self.height).transpose(1, 2)
        width = self._gated(x.transpose(1, 3), self.width).transpose(1, 3)
        return (height + width + self._gated(x, self.space)) / 3

    @staticmethod
    def _gated(x: Tensor, gate: nn.Module) -> Tensor:
        return x * gate(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1))


def simam_attn(port: Port, *, e_lambda: float) -> nn.Module:
    """``SimAM``."""
    return SimAM(e_lambda)


def ema_attn(port: Port, *, groups: int | None) -> nn.Module:
    """``EMA`` with 32 groups, as published, or as many as divide 32 and the channels."""
    groups = groups or gcd(32, port.channels)
    divides(groups, port.channels, "channels", "groups")
    return EMA(port.channels, groups)


def gam_attn(port: Port, *, gate: str, kernel_size: int, **options: Any) -> nn.Module:
    """``GAM``."""
    reduced = squeezed(port.channels, options["reduction"], options["rd_divisor"], "nearest")
    act = act_class(options["act"], options.get("act_slope"))
    return GAM(port.channels, options.get("rd_channels") or reduced, kernel_size, act, gate_class(gate))


def shuffle_attn(port: Port, *, groups: int | None) -> nn.Module:
    """``ShuffleAttention`` with 64 groups, as published, or as many as divide 64 and half of the channels."""
    groups = groups or gcd(64, port.channels // 2)
    if port.channels % (2 * groups):
        raise Unfit(f"groups {groups} need a multiple of {2 * groups} channels, and there are {port.channels}")
    return ShuffleAttention(port.channels, groups)


def triplet_attn(port: Port, *, kernel_size: int) -> nn.Module:
    """``TripletAttention``."""
    return TripletAttention(kernel_size)


def skconv_attn(port: Port, *, groups: int | None, **options: Any) -> nn.Module:
    """``SelectiveConv`` from the port's channels to as many; depthwise unless ``groups`` says otherwise."""
    groups = groups or port.channels
    divides(groups, port.channels, "channels", "groups")
    return selective(port.channels, port.channels, 1, groups, options)


def selective(in_channels: int, out_channels: int, stride: int, groups: int, options: Mapping[str, Any]) -> nn.Module:
    """``SelectiveConv`` with the options of the registry."""
    width = int(out_channels / options["reduction"])
    return SelectiveConv(
        in_channels,
        out_channels,
        options.get("rd_channels") or max(width, options["rd_least"]),
        stride,
        groups,
        act_class(options["act"], options.get("act_slope")),
        options["shared"],
        options["softmax"],
    )
