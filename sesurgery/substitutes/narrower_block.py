"""A block rebuilt with a part of its channels everywhere: inputs, outputs and what lies between.

Its weights are the first slices of the old ones, so what it learned is a start and no more.
"""

from __future__ import annotations

import copy
from fractions import Fraction

import torch
from torch import nn

from sesurgery.anatomy.layer_kinds import is_conv
from sesurgery.errors import Unfit
from sesurgery.recording.compat import NormBase
from sesurgery.words.text import reason


def narrowed(block: nn.Module, ratio: Fraction) -> nn.Module:
    """A copy of ``block`` in which every layer has ``ratio`` of its channels. Axes of one channel stay.

    A depthwise or grouped convolution keeps the width of its groups and has fewer of them, where that number divides.

    Raises:
        Unfit: a number of channels that does not divide, or a layer that holds weights of another kind.
    """
    if ratio == 1:
        return copy.deepcopy(block)
    new = copy.deepcopy(block)
    for module in new.modules():
        _narrow(module, ratio)
    return new


def _scaled(count: int, ratio: Fraction, layer: str) -> int:
    scaled = count * ratio
    if count == 1:
        return 1
    if scaled.denominator != 1 or scaled < 1:
        raise Unfit(f"{layer} has {count} channels, and {float(ratio):g} of that is no whole number")
    return int(scaled)


def _narrow(module: nn.Module, ratio: Fraction) -> None:
    if is_conv(module):
        _conv(module, ratio)  # type: ignore[arg-type]
    elif isinstance(module, nn.Linear):
        sizes = [_scaled(size, ratio, "a Linear") for size in (module.out_features, module.in_features)]
        module.out_features, module.in_features = sizes
        _cut(module, "weight", (slice(sizes[0]), slice(sizes[1])))
        _cut(module, "bias", (slice(sizes[0]),))
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = _scaled(module.num_channels, ratio, "a GroupNorm")
        if module.num_channels % module.num_groups:
            module.num_groups = _scaled(module.num_groups, ratio, "a GroupNorm's groups")
        _vectors(module, ratio)
    elif isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise Unfit("a LayerNorm over more than the channels cannot be narrowed")
        module.normalized_shape = (_scaled(module.normalized_shape[0], ratio, "a LayerNorm"),)
        _vectors(module, ratio)
    else:
        if isinstance(module, NormBase):
            module.num_features = _scaled(module.num_features, ratio, f"a {type(module).__name__}")
        _vectors(module, ratio)


def _vectors(module: nn.Module, ratio: Fraction) -> None:
    """Cut the vectors that a module holds itself: one number for each channel."""
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is None or tensor.numel() == 1:
            continue
        axis = max(range(tensor.ndim), key=tuple(tensor.shape).__getitem__)
        if tensor.shape[axis] != tensor.numel():
            raise Unfit(f"a {type(module).__name__} holds weights ({name}) that cannot be narrowed")
        size = _scaled(tensor.numel(), ratio, f"a {type(module).__name__}")
        _cut(module, name, tuple(slice(size) if index == axis else slice(None) for index in range(tensor.ndim)))


def _conv(conv: nn.Conv2d, ratio: Fraction) -> None:
    weight: torch.Tensor | None = conv._parameters.get("weight")
    if weight is None:
        raise Unfit("a convolution's weight is computed (weight norm or another parametrisation)")
    layer, out, groups = f"a {type(conv).__name__}", conv.out_channels, conv.groups
    conv.in_channels = _scaled(conv.in_channels, ratio, layer)
    conv.out_channels = _scaled(out, ratio, layer)
    if groups == 1:
        chosen = weight[: conv.out_channels, : conv.in_channels]
    elif (groups * ratio).denominator == 1:
        conv.groups = int(groups * ratio)
        chosen = weight[: conv.out_channels]
    elif conv.in_channels % groups or conv.out_channels % groups:
        raise Unfit(f"{layer} has {groups} groups, which {conv.in_channels} channels cannot be parted into")
    else:
        grouped = weight.unflatten(0, (groups, out // groups))
        chosen = grouped[:, : conv.out_channels // groups, : conv.in_channels // groups].flatten(0, 1)
    for name, tensor in [*conv._parameters.items()]:
        if name != "weight" and tensor is not None and tensor.ndim and tensor.shape[0] == out:
            _cut(conv, name, (slice(conv.out_channels),))
    conv.weight = nn.Parameter(chosen.detach().clone(), requires_grad=weight.requires_grad)


def _cut(module: nn.Module, name: str, index: tuple[slice, ...]) -> None:
    tensor = getattr(module, name)
    if tensor is None:
        return
    kept = tensor.detach()[index].clone()
    if isinstance(tensor, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=tensor.requires_grad)
    setattr(module, name, kept)


def runs_as(block: nn.Module, shape: torch.Size | tuple[int, ...]) -> None:
    """Try a block out on meta, in both modes. Raises ``Unfit`` unless it keeps ``shape`` (N, C, H, W)."""
    trial = copy.deepcopy(block).to("meta")
    for training in (False, True):
        try:
            with torch.no_grad(), torch.device("meta"), torch.random.fork_rng(devices=[]):
                output = trial.train(training)(torch.empty((2, *shape[1:])))
        except Exception as error:
            raise Unfit(f"a narrower {type(block).__name__} does not run: {reason(error)}") from None
        if not isinstance(output, torch.Tensor) or tuple(output.shape[1:]) != tuple(shape[1:]):
            raise Unfit(f"a narrower {type(block).__name__} would return another shape")
