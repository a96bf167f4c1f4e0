"""Squeeze-and-excitation and its kin (Hu et al. 2018, arXiv:1709.01507).

Where a library has the node, it is that library's own class, so that keys, rounding and numbers are those of its
models.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from timm.layers import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite as MbConvSE
from torch import Tensor, nn
from torchvision.ops.misc import SqueezeExcitation

from sesurgery.attention.activations import act_class, gate_class, new_act, zero
from sesurgery.attention.options import MAX_CHANNELS
from sesurgery.attention.port import Port
from sesurgery.attention.widths import squeezed
from sesurgery.errors import Unfit

_CONVS: dict[str, type[nn.Module]] = {"nchw": nn.Conv2d, "ncl": nn.Conv1d, "ncthw": nn.Conv3d}
_POOLS: dict[int, type[nn.Module]] = {
    3: nn.AdaptiveAvgPool1d,
    4: nn.AdaptiveAvgPool2d,
    5: nn.AdaptiveAvgPool3d,
}


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation in any layout: ``x * gate(fc2(act(fc1(squeeze(x)))))``.

    The squeeze reduces every axis but the batch and the channels. Channels-first layouts use 1x1 convolutions, the
    others linear layers. Input and output have the shape of the port.

    Args:
        channels: of the map.
        rd_channels: width between the two layers.
        axes: every axis but the batch and the channels.
        layer: makes a layer from channels to channels.
        squeeze: ``avg``, ``max``, ``avg+max`` (their mean, as in timm) or ``none`` (every position for itself).
        act: class of the activation.
        gate: class of the gate.
        bias: whether the layers have a bias.
    """

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        axes: tuple[int, ...],
        layer: Callable[..., nn.Module],
        squeeze: str = "avg",
        act: Callable[..., nn.Module] = nn.ReLU,
        gate: Callable[..., nn.Module] = nn.Sigmoid,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.axes = axes
        # The mean over no axes would be torch's mean over all of them.
        self.squeeze = squeeze if self.axes else "none"
        self.fc1 = layer(channels, rd_channels, bias=bias)
        self.act = act()  # in place it would be on a view of what fc1 gave, which loses fc1 to those who read gradients
        self.fc2 = layer(rd_channels, channels, bias=bias)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) in, the same out."""
        return x * self.gate(self.fc2(self.act(self.fc1(self.squeezed(x)))))

    def squeezed(self, x: Tensor) -> Tensor:
        """What the excitation sees: one value per channel, or ``x`` itself."""
        if self.squeeze == "avg":
            return x.mean(self.axes, keepdim=True)
        if self.squeeze == "max":
            return x.amax(self.axes, keepdim=True)
        if self.squeeze == "avg+max":
            return 0.5 * x.mean(self.axes, keepdim=True) + 0.5 * x.amax(self.axes, keepdim=True)
        return x

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, axes={self.axes}"


class LinearSE(nn.Module):
    """Squeeze-and-excitation by adaptive average pooling and two linear layers. (N, C, ...) in, the same out."""

    def __init__(self, pool: nn.Module, fc: nn.Sequential, rank: int) -> None:
        super().__init__()
        self.avg_pool = pool
        self.fc = fc
        self.ones = (1,) * (rank - 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) in, the same out."""
        scale: Tensor = self.fc(self.avg_pool(x).flatten(1))
        return x * scale.unflatten(1, (-1, *self.ones))


class ConcurrentSE(nn.Module):
    """Channel and spatial excitation side by side, added (Roy et al. 2018, arXiv:1803.02579). (N, C, H, W)."""

    def __init__(self, channel: nn.Module, channels: int, gate: Callable[..., nn.Module], bias: bool) -> None:
        super().__init__()
        self.channel = channel
        self.spatial = nn.Conv2d(channels, 1, kernel_size=1, bias=bias)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in, the same out."""
        return self.channel(x) + x * self.gate(self.spatial(x))


def se(
    port: Port,
    *,
    reduction: float,
    rd_divisor: int,
    act: str,
    gate: str,
    squeeze: str,
    bias: bool,
    init: str = "paper",
    rd_channels: int | None = None,
    act_slope: float | None = None,
) -> nn.Module:
    """timm's ``SEModule`` where it can do what is asked, else ``SqueezeExcite``; both have fc1 and fc2."""
    width = _width(port, rd_channels, reduction, rd_divisor, "timm")
    gates, acts = gate_class(gate, init), act_class(act, act_slope)
    node: SEModule | SqueezeExcite
    if port.layout == "nchw" and squeeze in {"avg", "avg+max"}:
        node = SEModule(
            port.channels,
            rd_channels=width,
            add_maxpool=squeeze == "avg+max",
            bias=bias,
            act_layer=acts,  # type: ignore[arg-type]
            gate_layer=gates,
        )
    else:
        conv = _CONVS.get(port.layout)
        layer = partial(conv, kernel_size=1) if conv else nn.Linear
        node = SqueezeExcite(port.channels, width, port.spatial_axes, layer, squeeze, acts, gates, bias)
    if init == "identity":
        zero(node.fc2)
    return node


def se_mbconv(
    port: Port,
    *,
    reduction: float,
    rd_divisor: int,
    act: str,
    gate: str,
    init: str = "paper",
    rd_channels: int | None = None,
    act_slope: float | None = None,
) -> nn.Module:
    """The SE of timm's EfficientNet and MobileNetV3; keys ``conv_reduce`` and ``conv_expand``."""
    width = _width(port, rd_channels, reduction, rd_divisor, "nearest")
    node = MbConvSE(
        port.channels, rd_channels=width, act_layer=act_class(act, act_slope), gate_layer=gate_class(gate, init)
    )
    if init == "identity":
        zero(node.conv_expand)
    return node


def se_torchvision(
    port: Port,
    *,
    reduction: float,
    rd_divisor: int,
    act: str,
    gate: str,
    init: str = "paper",
    rd_channels: int | None = None,
    act_slope: float | None = None,
) -> nn.Module:
    """torchvision's ``SqueezeExcitation``; keys ``fc1`` and ``fc2``."""
    width = _width(port, rd_channels, reduction, rd_divisor, "nearest")
    native = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh} if init == "paper" else {}
    node = SqueezeExcitation(
        port.channels,
        width,
        activation=partial(new_act, act_class(act, act_slope)),
        scale_activation=native.get(gate) or gate_class(gate, init),
    )
    if init == "identity":
        zero(node.fc2)
    return node


def se_linear(
    port: Port,
    *,
    reduction: float,
    act: str,
    gate: str,
    bias: bool,
    init: str = "paper",
    rd_channels: int | None = None,
    act_slope: float | None = None,
) -> nn.Module:
    """Adaptive average pooling and two linear layers; keys ``fc.0`` and ``fc.2``."""
    width = _width(port, rd_channels, reduction, 1, "floor")
    last = nn.Linear(width, port.channels, bias=bias)
    if init == "identity":
        zero(last)
    activation = new_act(act_class(act, act_slope))
    fc = nn.Sequential(nn.Linear(port.channels, width, bias=bias), activation, last, gate_class(gate, init)())
    return LinearSE(_POOLS[port.rank](1), fc, port.rank)


def ese(port: Port, *, gate: str, squeeze: str, init: str = "paper") -> nn.Module:
    """timm's ``EffectiveSEModule``, as VoVNet uses it; key ``fc``."""
    node = EffectiveSEModule(port.channels, add_maxpool=squeeze == "avg+max", gate_layer=gate_class(gate, init))
    if init == "identity":
        zero(node.fc)
    return node


def scse(port: Port, *, gate: str, bias: bool, **options: object) -> nn.Module:
    """``ConcurrentSE``; keys ``channel.*`` and ``spatial.*``."""
    channel = se(port, gate=gate, bias=bias, squeeze="avg", **options)  # type: ignore[arg-type]
    return ConcurrentSE(channel, port.channels, gate_class(gate), bias)


def _width(port: Port, rd_channels: int | None, reduction: float, divisor: int, rounding: str) -> int:
    width = rd_channels or squeezed(port.channels, reduction, divisor, rounding)
    if width > MAX_CHANNELS:
        raise Unfit(f"reduction {reduction:g} of {port.channels} channels gives {width} channels; reduce more")
    return width


__all__ = ["ConcurrentSE", "LinearSE", "SqueezeExcite", "ese", "scse", "se", "se_linear", "se_mbconv", "se_torchvision"]
