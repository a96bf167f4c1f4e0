"""Factories for timm's heavier nodes: convolutions and self-attention that take an (N, C, H, W) map to one like it."""

from __future__ import annotations

from typing import Any

from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from timm.layers.non_local_attn import BatNonLocalAttn, NonLocalAttn
from timm.layers.selective_kernel import SelectiveKernel
from timm.layers.split_attn import SplitAttn
from torch import nn

from ..errors import Unfit
from .fits import block_that_fits, divides, kernel_fits, positions_fit
from .port import Port
from .timm_nodes import act_args, width_args
from .widths import squeezed


def sk_attn(
    port: Port, *, kernel_size: int, groups: int, split_input: bool, keep_3x3: bool, **options: Any
) -> nn.Module:
    """timm's ``SelectiveKernel`` with branches of 3 and ``kernel_size`` (a dilated 3x3 with ``keep_3x3``)."""
    kernel_fits(port, kernel_size)
    if split_input:
        divides(2, port.channels, "channels in two halves; set split_input: false", "a split in")
    divides(groups, port.channels // 2 if split_input else port.channels, "channels of a branch", "groups")
    return SelectiveKernel(
        port.channels,
        kernel_size=[3, kernel_size],
        groups=groups,
        split_input=split_input,
        keep_3x3=keep_3x3,
        **width_args(port, options, "limited"),
        **act_args(options),
    )


def splat_attn(port: Port, *, kernel_size: int, groups: int, radix: int, bias: bool, **options: Any) -> nn.Module:
    """timm's ``SplitAttn``."""
    kernel_fits(port, kernel_size)
    divides(groups * radix, port.channels, "channels", "groups * radix =")
    width = width_args(port, options, "limited")
    # timm's own rule: the ratio is of all radix groups together, and never below 32 unless given.
    rd_channels = width["rd_channels"]
    ratio = 1 / (width["rd_ratio"] * radix)
    hidden = rd_channels * radix if rd_channels else squeezed(port.channels, ratio, width["rd_divisor"], "limited")
    divides(groups, max(hidden, 32) if not rd_channels else hidden, "channels of the hidden layer", "groups")
    return SplitAttn(
        port.channels, kernel_size=kernel_size, groups=groups, radix=radix, bias=bias, **width, **act_args(options)
    )


def lambda_attn(port: Port, *, num_heads: int, dim_head: int, kernel_size: int, bias: bool) -> nn.Module:
    """timm's ``LambdaLayer`` with a position lambda over ``kernel_size`` neighbours a side."""
    kernel_fits(port, kernel_size)
    divides(num_heads, port.channels, "channels", "num_heads")
    return LambdaLayer(port.channels, num_heads=num_heads, dim_head=dim_head, r=kernel_size, qkv_bias=bias)


def bottleneck_attn(port: Port, *, num_heads: int, dim_head: int | None, bias: bool) -> nn.Module:
    """timm's ``BottleneckAttn``; it only accepts maps of the size of the port."""
    positions_fit(port)
    divides(num_heads, port.channels, "channels", "num_heads")
    height, width = port.spatial
    return BottleneckAttn(
        port.channels, feat_size=(height, width), num_heads=num_heads, dim_head=dim_head, qkv_bias=bias
    )


def halo_attn(
    port: Port, *, num_heads: int, dim_head: int | None, block_size: int | None, halo_size: int, bias: bool
) -> nn.Module:
    """timm's ``HaloAttn``; blocks of 8 or 7, whichever tile the map, unless ``block_size`` is given."""
    block = block_that_fits(port, block_size, (8, 7))
    divides(num_heads, port.channels, "channels", "num_heads")
    return HaloAttn(
        port.channels,
        num_heads=num_heads,
        dim_head=dim_head,
        block_size=block,
        halo_size=halo_size,
        qkv_bias=bias,
    )


def nl_attn(port: Port, *, init: str = "paper", **options: Any) -> nn.Module:
    """timm's ``NonLocalAttn``; its last norm starts at 0, so it is the identity at birth whatever ``init`` says."""
    # A second zero, that of IdentityStart, in front of the first would keep either from ever training.
    del init
    positions_fit(port)
    return NonLocalAttn(port.channels, **width_args(port, options, "limited"))


def bat_attn(port: Port, *, block_size: int | None, groups: int, drop_rate: float, **options: Any) -> nn.Module:
    """timm's ``BatNonLocalAttn``; blocks of 7 or 8, whichever tile the map, unless ``block_size`` is given."""
    block = block_that_fits(port, block_size, (7, 8))
    width = width_args(port, options, "limited")
    hidden = width["rd_channels"] or squeezed(port.channels, 1 / width["rd_ratio"], width["rd_divisor"], "limited")
    if hidden % groups:
        raise Unfit(f"groups {groups} does not divide the {hidden} channels it is reduced to")
    return BatNonLocalAttn(
        port.channels, block_size=block, groups=groups, drop_rate=drop_rate, **width, **act_args(options)
    )
