"""Which axis of an activation holds its channels: derived from the operations that made it, never guessed.

During the one forward pass of planning each tensor that leaves an aten operation is labelled with its channel axis.
A convolution writes channels on axis 1, a linear layer and a layer norm on the last axis; a permutation moves the
label, a view splits or joins it (channel shuffles, attention heads), anything that keeps the shape keeps the label.
A linear layer along another axis than that of the channels mixes tokens (MLP-Mixer) and leaves the channels in place.
Where none of this says anything, the tensor has no label and a node cannot be put there. That of the model's input is
assumed to be axis 1 until a layer says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import torch

from sesurgery.recording.compat import viewed

_LABEL = "_sesurgery_channel_axes"
_ACTIVATION = "_sesurgery_activation"
_FOLDED = "_sesurgery_folded"
# They take the shape of an activation, but nothing of what it says: noise and masks.
_FRESH = frozenset(
    "rand_like randn_like randint_like zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty".split()
)
Axes = tuple[int, ...]  # more than one while a view has split the channels


class Assumed(tuple[int, ...]):
    """The axis of an input that no layer has seen yet: any other label is better."""


_Rule = Callable[[tuple[Any, ...], torch.Tensor], Axes | None]


def channel_axis(tensor: object) -> int | None:
    """The channel axis (non-negative) of a labelled activation, or None where it is not known."""
    axes = _axes(tensor)
    return axes[0] if axes is not None and len(axes) == 1 else None


def assume(tensor: torch.Tensor, axis: int | None) -> None:
    """Say on which axis an input should hold its channels as long as no layer says otherwise; None forgets."""
    _set(tensor, None if axis is None else Assumed((axis,)))


def labels(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All that a tensor is labelled with, to be compared."""
    axes = _axes(tensor)
    return axes, type(axes) is Assumed, is_activation(tensor)


def is_activation(tensor: object) -> bool:
    """Whether a tensor depends on the input of the model (a mask or a position embedding does not)."""
    return getattr(tensor, _ACTIVATION, False)


def mark_activation(tensor: torch.Tensor) -> None:
    """Say that ``tensor`` depends on the input of the model."""
    setattr(tensor, _ACTIVATION, True)


def copy_labels(source: torch.Tensor, target: torch.Tensor) -> None:
    """Give ``target`` the labels of ``source``."""
    _set(target, _axes(source))
    if is_activation(source):
        mark_activation(target)


def propagate(name: str, args: tuple[Any, ...], output: Any) -> None:
    """Label what the aten operation ``name`` gave, from the labels of what it took."""
    depends = name not in _FRESH and any(is_activation(tensor) for tensor in _tensors(args))
    for item in output if isinstance(output, (tuple, list)) else (output,):
        if isinstance(item, torch.Tensor):
            _set(item, _axes_after(name, args, item))
            if depends:
                mark_activation(item)
    if depends and name.endswith("_") and isinstance(args[0], torch.Tensor):
        base = viewed(args[0])  # written through a view of it: images put into a batch of zeros
        if base is not None:
            mark_activation(base)


def _axes(tensor: object) -> Axes | None:
    return getattr(tensor, _LABEL, None)


def _set(tensor: torch.Tensor, axes: Axes | None) -> None:
    if axes is not None or hasattr(tensor, _LABEL):
        setattr(tensor, _LABEL, axes)


def _axes_after(name: str, args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    rule = _RULES.get(name.rstrip("_"))
    if rule is None:
        return _same_shape(args, output)
    axes = rule(args, output)
    if axes is not None and rule not in _WRITING and type(_axes(args[0])) is Assumed:
        return Assumed(axes)
    return axes


def _tensors(args: Sequence[Any]) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    for arg in args:
        if isinstance(arg, torch.Tensor):
            tensors.append(arg)
        elif isinstance(arg, (list, tuple)):
            tensors.extend(item for item in arg if isinstance(item, torch.Tensor))
    return tensors


def _shared(labels: Iterable[Axes | None]) -> Axes | None:
    """The one label that all have, as far as it is more than assumed."""
    all_axes = list(labels)
    firm = {axes for axes in all_axes if type(axes) is not Assumed} or set(all_axes)
    return firm.pop() if len(firm) == 1 else None


def _same_shape(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    alike = [tensor for tensor in _tensors(args) if tensor.shape == output.shape and _axes(tensor) is not None]
    alike = alike or [tensor for tensor in _tensors(args) if tensor.ndim == output.ndim and _axes(tensor) is not None]
    return _shared(_axes(tensor) for tensor in alike)


def _first(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    axes = _axes(args[0])
    return axes if axes is not None and output.ndim == args[0].ndim else None


def _convolution(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    return (1,) if output.ndim == args[1].ndim else None


def _channels_second(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    return (1,) if output.ndim == args[0].ndim and output.ndim >= 3 else _same_shape(args, output)


def _linear(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    """On the last axis, unless a view of more axes that hold the channels is being multiplied: see :func:`_view`."""
    for tensor in _tensors(args):
        if hasattr(tensor, _FOLDED):
            setattr(output, _FOLDED, getattr(tensor, _FOLDED))
    return (output.ndim - 1,)


def _unknown(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    return None


def _products(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    """The channels of the values that attention adds up: rows of the right matrix, or columns of the left one."""
    left, right = _axes(args[-2]) == (1,), _axes(args[-1]) == (2,)
    return None if left is right else (1,) if left else (2,)


def _layer_norm(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    if len(args[1]) == 1 and output.shape == args[0].shape:
        return (output.ndim - 1,)
    return _same_shape(args, output)


def _permute(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    axes = _axes(args[0])
    order = [dim % output.ndim for dim in args[1]]
    return None if axes is None else tuple(sorted(order.index(axis) for axis in axes))


def _transpose(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    axes = _axes(args[0])
    if axes is None:
        return None
    one, two = (dim % output.ndim for dim in args[1:3]) if len(args) > 2 else (0, 1)
    swap = {one: two, two: one}
    return tuple(sorted(swap.get(axis, axis) for axis in axes))


def _view(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    """Channels survive a view where the run of axes that holds them covers a run of whole axes of the new shape.

    torch folds all axes but the last before a linear layer, and unfolds them behind it: so do the labels.
    """
    folded = getattr(args[0], _FOLDED, None)
    if folded is not None and folded[0] == output.shape[:-1]:
        return folded[1]
    axes = _axes(args[0])
    if axes is None:
        return None
    if output.ndim == 2 < args[0].ndim and max(axes) < args[0].ndim - 1 and type(axes) is not Assumed:
        setattr(output, _FOLDED, (args[0].shape[:-1], axes))
    first, last = min(axes), max(axes)
    shape = args[0].shape
    if len(axes) != last - first + 1:
        return None
    if tuple(output.shape) == tuple(shape):
        return axes
    size = prod(shape[first : last + 1])
    behind = prod(shape[last + 1 :])
    if size == 1:
        return None
    places: list[int] = []
    for place in range(output.ndim - 1, -1, -1):
        length, tail = output.shape[place], prod(output.shape[place + 1 :])
        if length > 1 and behind <= tail and tail * length <= behind * size:
            places.insert(0, place)
    if prod(output.shape[place] for place in places) != size:
        return None
    # An instance norm folds the batch into the channels and takes it out again.
    return tuple(places[1:] if places[0] == 0 and len(places) > 1 else places)


def _unsqueeze(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    axes = _axes(args[0])
    return None if axes is None else tuple(axis + (args[1] % output.ndim <= axis) for axis in axes)


def _stack(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    axes = _shared(_axes(tensor) for tensor in args[0])
    new = (args[1] if len(args) > 1 else 0) % output.ndim
    return None if axes is None else tuple(axis + (new <= axis) for axis in axes)


def _select(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    source = args[0]
    axes = _axes(source)
    gone = (args[1] if len(args) > 1 else 0) % source.ndim
    return None if axes is None else _without(axes, [gone])


def _expand(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    """An axis that is repeated (a gate made large) holds no channels any more."""
    axes = _axes(args[0])
    moved = None if axes is None else tuple(axis + output.ndim - args[0].ndim for axis in axes)
    if (
        moved is None
        or axes is None
        or any(output.shape[new] != args[0].shape[old] for old, new in zip(axes, moved, strict=True))
    ):
        return None
    return moved


def _reduce(args: tuple[Any, ...], output: torch.Tensor) -> Axes | None:
    source = args[0]
    axes = _axes(source)
    if axes is None:
        return None
    if output.ndim == source.ndim:
        return tuple(axis for axis in axes if output.shape[axis] == source.shape[axis]) or None
    gone = args[1] if len(args) > 1 and args[1] is not None else range(source.ndim)
    return _without(axes, [dim % source.ndim for dim in ([gone] if isinstance(gone, int) else gone)])


def _without(axes: Axes, gone: Sequence[int]) -> Axes | None:
    """Where the channels are when axes have gone; of channels that a view had split, what is left (split attention)."""
    return tuple(axis - sum(dim < axis for dim in gone) for axis in axes if axis not in gone) or None


_RULES: dict[str, _Rule] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "addmm": _linear,
    "mm": _linear,
    "linear": _linear,
    "bmm": _products,
    "baddbmm": _products,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "view": _view,
    "_unsafe_view": _view,
    "reshape": _view,
    "_reshape_alias": _view,
    "squeeze": _view,
    "unsqueeze": _unsqueeze,
    "stack": _stack,
    "select": _select,
    "expand": _expand,
    "mean": _reduce,
    "sum": _reduce,
    "amax": _reduce,
    "slice": _first,
    "split": _first,
    "split_with_sizes": _first,
    "constant_pad_nd": _first,
    "as_strided": _unknown,
    "unfold": _unknown,
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_native_batch_norm_legit",
            "cudnn_batch_norm",
            "native_group_norm",
            "max_pool2d_with_indices",
            "max_pool3d_with_indices",
            "avg_pool2d",
            "avg_pool3d",
            "_adaptive_avg_pool2d",
            "_adaptive_avg_pool3d",
            "adaptive_max_pool2d",
            "upsample_nearest2d",
            "upsample_bilinear2d",
            "upsample_bicubic2d",
            "pixel_shuffle",
            "pixel_unshuffle",
        ),
        _channels_second,
    ),
}
_WRITING = frozenset((_convolution, _channels_second, _linear, _layer_norm))
