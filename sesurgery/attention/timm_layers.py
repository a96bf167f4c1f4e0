"""Factories for timm's light attention nodes: each keeps the shape of an (N, C, H, W) map.

The nodes are timm's own classes with the keys and numbers of timm's models.
"""

from __future__ import annotations

from functools import partial
from math import log2
from typing import Any

from timm.layers.attention2d import Attention2d
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.cbam import CbamModule, LightCbamModule
from timm.layers.coord_attn import CoordAttn, EfficientLocalAttn, SimpleCoordAttn, StripAttn
from timm.layers.eca import CecaModule, EcaModule
from timm.layers.gather_excite import GatherExcite
from timm.layers.global_context import GlobalContext
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from timm.layers.mlp import ConvMlp
from timm.layers.non_local_attn import BatNonLocalAttn, NonLocalAttn
from timm.layers.selective_kernel import SelectiveKernel
from timm.layers.split_attn import SplitAttn
from torch import nn

from sesurgery.attention.activations import act_class, gate_class, zero
from sesurgery.attention.options import MAX_CHANNELS
from sesurgery.attention.port import Port, block_that_fits, divides, kernel_fits, positions_fit, size
from sesurgery.attention.widths import squeezed
from sesurgery.errors import Unfit


def width_args(port: Port, options: dict[str, Any], rounding: str = "timm") -> dict[str, Any]:
    """Take the options that set the squeezed width out of ``options``, as timm's arguments."""
    reduction, divisor = options.pop("reduction"), options.pop("rd_divisor")
    asked = options.pop("rd_channels", None)
    width = asked or squeezed(port.channels, reduction, divisor, rounding)
    if width > MAX_CHANNELS:
        raise Unfit(f"reduction {reduction:g} of {port.channels} channels gives {width} channels; reduce more")
    return {"rd_ratio": 1 / reduction, "rd_channels": asked, "rd_divisor": divisor}


def act_args(options: dict[str, Any]) -> dict[str, Any]:
    """Take the activation out of ``options``, as timm's argument."""
    return {"act_layer": act_class(options.pop("act"), options.pop("act_slope", None))}


def eca_attn(port: Port, *, kernel_size: int | None, gate: str) -> nn.Module:
    """timm's ``EcaModule``; the kernel follows from the channels unless it is given."""
    return _eca(EcaModule, port, kernel_size, gate)


def ceca_attn(port: Port, *, kernel_size: int | None, gate: str) -> nn.Module:
    """timm's ``CecaModule``: circular padding."""
    return _eca(CecaModule, port, kernel_size, gate)


def ecam_attn(port: Port, *, gate: str, **options: Any) -> nn.Module:
    """timm's ``EcaModule`` with a hidden layer."""
    return EcaModule(
        port.channels,
        use_mlp=True,
        gate_layer=gate_class(gate),
        **width_args(port, options, "limited"),
        **act_args(options),
    )


def ge_attn(port: Port, *, gate: str, squeeze: str, extent: int, extra_params: bool, **options: Any) -> nn.Module:
    """timm's ``GatherExcite``; its layers are made here, as timm 1.0.31 passes their arguments by position."""
    width = width_args(port, options)
    rd_channels = width["rd_channels"] or squeezed(port.channels, 1 / width["rd_ratio"], width["rd_divisor"], "timm")
    act = act_args(options)["act_layer"]
    node = GatherExcite(
        port.channels,
        extent=extent,
        use_mlp=False,
        add_maxpool=squeeze == "avg+max",
        gate_layer=gate_class(gate),
    )
    node.mlp = ConvMlp(port.channels, rd_channels, act_layer=act)
    if extra_params:
        if squeeze == "avg+max":
            raise Unfit("squeeze: avg+max has no meaning with extra_params, whose gathering is learned")
        node.gather = _gather(port, extent, act)
    return node


def gc_attn(port: Port, *, gate: str, **options: Any) -> nn.Module:
    """timm's ``GlobalContext``, scaling."""
    return GlobalContext(port.channels, gate_layer=gate_class(gate), **width_args(port, options), **act_args(options))


def gca_attn(port: Port, *, init: str = "paper", **options: Any) -> nn.Module:
    """timm's ``GlobalContext``, adding. Its last weight starts at 0; for ``init: identity`` its last bias does too."""
    node = GlobalContext(
        port.channels, fuse_add=True, fuse_scale=False, **width_args(port, options), **act_args(options)
    )
    if init == "identity" and node.mlp_add is not None:
        zero(node.mlp_add.fc2)
    return node


def cbam_attn(port: Port, *, kernel_size: int, gate: str, bias: bool, **options: Any) -> nn.Module:
    """timm's ``CbamModule``; ``kernel_size`` is that of its spatial half, ``bias`` that of its channel half."""
    return CbamModule(
        port.channels,
        spatial_kernel_size=kernel_size,
        gate_layer=gate_class(gate),
        mlp_bias=bias,
        **width_args(port, options),
        **act_args(options),
    )


def lcbam_attn(port: Port, *, kernel_size: int, bias: bool, **options: Any) -> nn.Module:
    """timm's ``LightCbamModule``."""
    return LightCbamModule(
        port.channels,
        spatial_kernel_size=kernel_size,
        mlp_bias=bias,
        **width_args(port, options),
        **act_args(options),
    )


def coord_attn(port: Port, *, gate: str, bias: bool, **options: Any) -> nn.Module:
    """timm's ``CoordAttn``."""
    return _coord(CoordAttn, port, gate, bias, options)


def scoord_attn(port: Port, *, gate: str, bias: bool, **options: Any) -> nn.Module:
    """timm's ``SimpleCoordAttn``."""
    return _coord(SimpleCoordAttn, port, gate, bias, options)


def ela_attn(port: Port, *, kernel_size: int, gate: str, bias: bool, **options: Any) -> nn.Module:
    """timm's ``EfficientLocalAttn``."""
    kernel_fits(port, kernel_size)
    return EfficientLocalAttn(
        port.channels, kernel_size=kernel_size, bias=bias, gate_layer=gate_class(gate), **act_args(options)
    )


def strip_attn(port: Port, *, kernel_size: int, gate: str, bias: bool) -> nn.Module:
    """timm's ``StripAttn``."""
    kernel_fits(port, kernel_size)
    return StripAttn(port.channels, kernel_size=kernel_size, bias=bias, gate_layer=gate_class(gate))


def _eca(cls: type[nn.Module], port: Port, kernel_size: int | None, gate: str) -> nn.Module:
    if kernel_size is None:
        return cls(port.channels, gate_layer=gate_class(gate))
    if kernel_size > 2 * port.channels - 1:
        raise Unfit(f"kernel_size {kernel_size} is too large for {port.channels} channels")
    # timm derives the kernel from the channels whenever it is told them.
    return cls(None, kernel_size=kernel_size, gate_layer=gate_class(gate))


def _coord(cls: type[nn.Module], port: Port, gate: str, bias: bool, options: dict[str, Any]) -> nn.Module:
    # timm squeezes to two thirds of the ratio, so that the node has about the parameters of an SE.
    width = width_args(port, options)
    return cls(port.channels, bias=bias, gate_layer=gate_class(gate), **width, **act_args(options))


def _gather(port: Port, extent: int, act: Any) -> nn.Sequential:
    channels = port.channels
    if extent == 0:
        if port.positions > 64 * 64:
            raise Unfit(f"extra_params with extent 0 needs a kernel as large as the {size(port)} map; set an extent")
        conv = nn.Conv2d(channels, channels, port.spatial, groups=channels, bias=False)  # type: ignore[arg-type]
        return _named(conv1=conv, norm1=nn.BatchNorm2d(channels))
    depthwise = partial(nn.Conv2d, channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
    layers: dict[str, nn.Module] = {}
    steps = int(log2(extent))
    for step in range(1, steps + 1):
        layers[f"conv{step}"] = depthwise()
        layers[f"norm{step}"] = nn.BatchNorm2d(channels)
        if step < steps:
            layers[f"act{step}"] = act(inplace=True)
    return _named(**layers)


def _named(**layers: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence


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


def mhsa_attn(port: Port, *, num_heads: int, bias: bool) -> nn.Module:
    """timm's ``Attention2d``."""
    positions_fit(port)
    divides(num_heads, port.channels, "channels", "num_heads")
    return Attention2d(port.channels, num_heads=num_heads, bias=bias)
