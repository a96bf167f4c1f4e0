"""Other activations, norms and nodes in the place of those that are there."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from math import gcd
from typing import Any, TypeGuard, get_args

import torch
from timm.layers import LayerNorm2d, SelectiveKernel
from torch import nn

from sesurgery import attention
from sesurgery.anatomy.layer_kinds import is_activation_layer, is_dropping
from sesurgery.attention.activations import act_class
from sesurgery.attention.map_attention import selective
from sesurgery.errors import Unfit
from sesurgery.plans import OtherActivation, OtherNorm, SelectiveConv, SelectiveName, WithoutNorm
from sesurgery.recording.compat import BatchNorm, InstanceNorm
from sesurgery.substitutes.registry import make

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (BatchNorm,),
    "group": (nn.GroupNorm,),
    "layer": (nn.LayerNorm,),
    "instance": (InstanceNorm,),
}


@make.register
def _activation(new: OtherActivation, old: nn.Module, *sources: nn.Module) -> nn.Module:
    kind = act_class(new.activation)
    try:
        return kind(inplace=bool(getattr(old, "inplace", False)))
    except TypeError:
        return kind()


@make.register
def _norm(new: OtherNorm, old: nn.Module, *sources: nn.Module) -> nn.Module:
    norm = _new_norm(new, float(getattr(old, "eps", 1e-5)))
    for name in ("weight", "bias"):
        mine, theirs = getattr(norm, name, None), getattr(old, name, None)
        if isinstance(mine, nn.Parameter) and isinstance(theirs, torch.Tensor) and mine.shape == theirs.shape:
            trains = theirs.requires_grad or not isinstance(theirs, nn.Parameter)
            setattr(norm, name, nn.Parameter(theirs.detach().clone(), requires_grad=trains))
    return _with_companions(norm, old)


def companions(norm: nn.Module) -> dict[str, nn.Module]:
    """The activation and dropout that a norm holds (timm's BatchNormAct2d), by name."""
    return {name: child for name, child in norm.named_children() if is_activation_layer(child) or is_dropping(child)}


def _with_companions(new: nn.Module, old: nn.Module) -> nn.Module:
    copies = {name: copy.deepcopy(child) for name, child in companions(old).items()}
    copies = {name: child for name, child in copies.items() if type(child) is not nn.Identity}
    return nn.Sequential(OrderedDict([("norm", new), *copies.items()])) if copies else new


@make.register
def _without_norm(new: WithoutNorm, old: nn.Module, *sources: nn.Module) -> nn.Module:
    copies = [copy.deepcopy(child) for child in companions(old).values() if type(child) is not nn.Identity]
    for layer in copies:
        if hasattr(layer, "inplace"):
            layer.inplace = False  # type: ignore[assignment]  # its input is no longer the norm's own
    return copies[0] if len(copies) == 1 else nn.Sequential(*copies) if copies else nn.Identity()


def is_norm_of(old: nn.Module, kind: str, groups: int | None = None) -> bool:
    """Whether a norm is of the kind ``batch``, ``group``, ``layer`` or ``instance`` (with these groups) already."""
    return isinstance(old, _KINDS[kind]) and groups in (None, getattr(old, "num_groups", None))


def _new_norm(new: OtherNorm, eps: float) -> nn.Module:
    kind, shape, axis = new.norm, new.shape, new.axis
    rank, channels = len(shape), shape[axis]
    if kind == "layer" and axis == rank - 1:
        return nn.LayerNorm(channels, eps=eps)
    if axis != 1:
        raise Unfit(f"its input holds the channels on axis {axis}, and a {kind} norm wants them on axis 1")
    if kind == "group":
        if new.groups and channels % new.groups:
            raise Unfit(f"{new.groups} groups do not divide its {channels} channels")
        return nn.GroupNorm(new.groups or gcd(32, channels), channels, eps=eps)
    if kind == "layer":
        return LayerNorm2d(channels, eps=eps) if rank == 4 else _no_norm(kind, rank)
    kinds = _BATCH if kind == "batch" else _INSTANCE
    if rank not in kinds:
        return _no_norm(kind, rank)
    if kind == "instance":
        if torch.Size(shape[2:]).numel() == 1:
            raise Unfit("an instance norm has nothing to average on a map of one place")
        return kinds[rank](channels, eps=eps, affine=True)
    return kinds[rank](channels, eps=eps)


def _no_norm(kind: str, rank: int) -> nn.Module:
    raise Unfit(f"there is no {kind} norm for an activation of {rank} axes with channels on axis 1")


def convolves(module: str) -> TypeGuard[SelectiveName]:
    """Whether a layer, by its canonical name, can take a convolution's stride, groups and widths over."""
    return module in get_args(SelectiveName)


@make.register
def _selective(new: SelectiveConv, old: nn.Module, *sources: nn.Module) -> nn.Module:
    """A selective kernel with the convolution's widths, groups and stride, its weights in the path they fit."""
    assert isinstance(old, nn.Conv2d)
    settings: dict[str, Any] = {**attention.entry(new.module).defaults, "groups": old.groups, **new.options}
    if settings.get("init", "paper") != "paper":
        raise Unfit("a selective kernel in a convolution's place cannot start as the identity")
    if new.module == "skconv":
        kernel = selective(old.in_channels, old.out_channels, old.stride[0], settings["groups"], settings)
    else:
        kernel = _timms_selective_kernel(old, settings)
    for conv in [part for part in kernel.modules() if isinstance(part, nn.Conv2d)]:
        if conv.weight.shape == old.weight.shape and conv.dilation == old.dilation:
            conv.weight = nn.Parameter(old.weight.detach().clone(), requires_grad=old.weight.requires_grad)
            break
    return kernel


def _timms_selective_kernel(old: nn.Conv2d, settings: Mapping[str, Any]) -> nn.Module:
    return SelectiveKernel(
        old.in_channels,
        old.out_channels,
        kernel_size=[3, settings["kernel_size"]],
        stride=old.stride[0],
        groups=settings["groups"],
        rd_ratio=1 / settings["reduction"],
        rd_channels=settings.get("rd_channels"),
        rd_divisor=settings["rd_divisor"],
        keep_3x3=settings["keep_3x3"],
        split_input=settings["split_input"],
        act_layer=act_class(settings["act"], settings.get("act_slope")),  # type: ignore[arg-type]
    )
