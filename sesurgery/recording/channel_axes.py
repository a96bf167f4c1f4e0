"""Which axis of an activation holds its channels, and which its samples: derived from the operations that made it.

During the one forward pass of planning each tensor that leaves an aten operation is labelled with its channel axis.
A convolution writes channels on axis 1, a linear layer and a layer norm on the last axis; a permutation moves the
label, a view splits or joins it (channel shuffles, attention heads), anything that keeps the shape keeps the label.
A linear layer along another axis than that of the channels mixes tokens (MLP-Mixer) and leaves the channels in place.
Where none of this says anything, the tensor has no label and a node cannot be put there. That of the model's input is
assumed to be axis 1 until a layer says otherwise.

The samples of an input are assumed to lie along its first axis, and are followed in the same way; a merge of axes (of
windows into the batch, of tokens before a linear layer) keeps them where they are in the order of the numbers. Where a
layer or attention mixes what that axis holds, the assumption was wrong: it holds places, as in (L, N, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from sesurgery.recording.compat import viewed

_LABEL = "_sesurgery_channel_axes"
_ACTIVATION = "_sesurgery_activation"
_FOLDED = "_sesurgery_folded"
_SAMPLES = "_sesurgery_samples"
# They take the shape of an activation, but nothing of what it says: noise and masks.
_FRESH = frozenset(
    "rand_like randn_like randint_like zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty".split()
)
Axes = tuple[int, ...]  # more than one while a view has split the channels


class Assumed(tuple[int, ...]):
    """The axis of an input that no layer has seen yet: any other label is better."""


@dataclass(eq=False)
class _Input:
    """An input of the model: whether what lies along its first axis turned out to be mixed."""

    mixed: bool = False


@dataclass(frozen=True)
class Samples:
    """Where the samples of an activation are.

    Attributes:
        axis: the axis along which they lie.
        number: how many there are.
        inside: how many steps of the axis each takes (windows, attention heads).
        input: that they come from; not compared.
    """

    axis: int
    number: int
    inside: int
    input: _Input

    def at(self, axis: int) -> Samples:
        """The same samples along another axis."""
        return Samples(axis, self.number, self.inside, self.input)

    @property
    def key(self) -> tuple[int, int, int, bool]:
        """What is compared."""
        return self.axis, self.number, self.inside, self.input.mixed


_Rule = Callable[[tuple[Any, ...], torch.Tensor], Axes | None]
_SampleRule = Callable[[tuple[Any, ...], torch.Tensor], Samples | None]


def channel_axis(tensor: object) -> int | None:
    """The channel axis (non-negative) of a labelled activation, or None where it is not known."""
    axes = _axes(tensor)
    return axes[0] if axes is not None and len(axes) == 1 else None


def sample_axis(tensor: object) -> int | None:
    """The axis along which the samples of an activation lie, or None where it is not known."""
    samples = _samples(tensor)
    return None if samples is None or samples.input.mixed else samples.axis


def rows_of_a_sample(tensor: object) -> int:
    """How many rows of the first axis belong to one sample: windows or patches that were put there; 1 if not known."""
    samples = _samples(tensor)
    return samples.inside if samples is not None and samples.axis == 0 and not samples.input.mixed else 1


def are_samples_mixed(tensor: object) -> bool:
    """Whether what was assumed to be samples of the model's input was mixed by a layer: then it was none."""
    samples = _samples(tensor)
    return samples is not None and samples.input.mixed


def assume(tensor: torch.Tensor, axis: int | None) -> None:
    """Say on which axis an input should hold its channels as long as no layer says otherwise; None forgets."""
    _set(tensor, None if axis is None else Assumed((axis,)))


def assume_samples(tensor: torch.Tensor) -> None:
    """Say that the first axis of an input should hold its samples as long as no layer mixes them."""
    if tensor.ndim > 1:
        setattr(tensor, _SAMPLES, Samples(0, tensor.shape[0], 1, _Input()))


def labels(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All that a tensor is labelled with, to be compared."""
    axes, samples = _axes(tensor), _samples(tensor)
    batch = None if samples is None else samples.key
    return axes, type(axes) is Assumed, is_activation(tensor), batch, getattr(tensor, _FOLDED, None)


def is_activation(tensor: object) -> bool:
    """Whether a tensor depends on the input of the model (a mask or a position embedding does not)."""
    return getattr(tensor, _ACTIVATION, False)


def mark_activation(tensor: torch.Tensor) -> None:
    """Say that ``tensor`` depends on the input of the model."""
    setattr(tensor, _ACTIVATION, True)


def copy_labels(source: torch.Tensor, target: torch.Tensor) -> None:
    """Give ``target`` the labels of ``source``."""
    _set(target, _axes(source))
    samples = _samples(source)
    if samples is not None:
        setattr(target, _SAMPLES, samples)
    if is_activation(source):
        mark_activation(target)
    if hasattr(source, _FOLDED):
        setattr(target, _FOLDED, getattr(source, _FOLDED))


def propagate(name: str, args: tuple[Any, ...], output: Any) -> None:
    """Label what the aten operation ``name`` gave, from the labels of what it took."""
    depends = name not in _FRESH and any(is_activation(tensor) for tensor in _tensors(args))
    for item in output if isinstance(output, (tuple, list)) else (output,):
        if isinstance(item, torch.Tensor):
            _set(item, _axes_after(name, args, item))
            samples = _samples_after(name, args, item)
            if samples is not None or hasattr(item, _SAMPLES):
                setattr(item, _SAMPLES, samples)
            if depends:
                mark_activation(item)
    if depends and name.endswith("_") and isinstance(args[0], torch.Tensor):
        base = viewed(args[0])  # written through a view of it: images put into a batch of zeros
        if base is not None:
            mark_activation(base)


def _samples(tensor: object) -> Samples | None:
    return getattr(tensor, _SAMPLES, None)


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


def _samples_after(name: str, args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    name = name.rstrip("_")
    if name.startswith("_scaled_dot_product"):
        return _attended(args, output)
    return _SAMPLE_RULES.get(name, _samples_kept)(args, output)


def _samples_kept(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """Where the samples of the arguments lie, if they agree and the axis has kept its length."""
    kept: Samples | None = None
    for tensor in _tensors(args):
        samples = _samples(tensor)
        if samples is None or tensor.ndim != output.ndim or tensor.shape[samples.axis] != output.shape[samples.axis]:
            continue
        if kept is not None and kept.axis != samples.axis:
            return None
        kept = samples
    return kept


def _samples_cut(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """A part of the samples, or several runs of them one behind the other."""
    for tensor in _tensors(args):
        samples = _samples(tensor)
        if samples is not None and tensor.ndim == output.ndim:
            length = output.shape[samples.axis]
            same = length == tensor.shape[samples.axis]
            return samples if same else Samples(samples.axis, length, 1, samples.input)
    return None


def _samples_viewed(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """A view leaves the order of the numbers: the samples are where as many numbers lie behind each as before."""
    source, samples = args[0], _samples(args[0])
    if samples is None or tuple(source.shape) == tuple(output.shape):
        return samples
    stride = prod(source.shape[samples.axis + 1 :]) * samples.inside
    places: list[int] = []
    for axis, length in enumerate(output.shape):
        behind = prod(output.shape[axis + 1 :])
        if 0 < behind <= stride and stride % behind == 0 and stride * samples.number <= behind * length:
            places.append(axis)
    if samples.number == 1:  # one sample may be at either end of an axis
        ends = [axis for axis in places if prod(output.shape[axis + 1 :]) == stride]
        ones = [axis for axis in ends if output.shape[axis] == 1]
        places = ones or (ends if output.ndim < source.ndim else []) or places
    if not places:
        return None
    axis = samples.axis if samples.axis in places else places[0]
    return Samples(axis, samples.number, stride // prod(output.shape[axis + 1 :]), samples.input)


def _samples_permuted(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples = _samples(args[0])
    return None if samples is None else samples.at([dim % output.ndim for dim in args[1]].index(samples.axis))


def _samples_transposed(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples = _samples(args[0])
    if samples is None:
        return None
    one, two = (dim % output.ndim for dim in args[1:3]) if len(args) > 2 else (0, 1)
    return samples.at({one: two, two: one}.get(samples.axis, samples.axis))


def _samples_unsqueezed(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples = _samples(args[0])
    return None if samples is None else samples.at(samples.axis + (args[1] % output.ndim <= samples.axis))


def _samples_stacked(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples = next((label for tensor in args[0] if (label := _samples(tensor)) is not None), None)
    new = (args[1] if len(args) > 1 else 0) % output.ndim
    return None if samples is None else samples.at(samples.axis + (new <= samples.axis))


def _samples_expanded(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples, source = _samples(args[0]), args[0]
    if samples is None:
        return None
    axis = samples.axis + output.ndim - source.ndim
    return samples.at(axis) if output.shape[axis] == source.shape[samples.axis] else None


def _samples_left(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """Behind an operation that takes axes away, those of its second argument (``mean``, ``select``)."""
    source, samples = args[0], _samples(args[0])
    if samples is None or output.ndim == source.ndim:
        return _samples_kept(args, output)
    gone = args[1] if len(args) > 1 and args[1] is not None else 0 if output.ndim else range(source.ndim)
    dims = [dim % source.ndim for dim in ([gone] if isinstance(gone, int) else gone)]
    return None if samples.axis in dims else samples.at(samples.axis - sum(dim < samples.axis for dim in dims))


def _multiplied(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """A product of matrices: rows of the left one and columns of the right one stay, what lies between is mixed."""
    left, right = (_samples(tensor) for tensor in args[-2:])
    rows, columns = output.ndim - 2, output.ndim - 1
    if left is not None and left.axis == columns:
        _mix(left)
        left = None
    if right is not None and right.axis == rows:
        _mix(right)
        right = None
    return left if right is None else right if left is None or left.axis == right.axis else None


def _by_a_kernel(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """A convolution or a linear layer: it mixes the channels."""
    samples, mixed = _samples(args[0]), 1 if output.ndim == args[1].ndim > 2 else output.ndim - 1
    if samples is not None and samples.axis == mixed:
        _mix(samples)
        return None
    return _samples_kept(args[:1], output)


def _attended(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    samples = _samples(args[0])
    if samples is not None and samples.axis >= args[0].ndim - 2:
        _mix(samples)
        return None
    return _samples_kept(args[:1], output)


def _mix(samples: Samples) -> None:
    if samples.number > 1:
        samples.input.mixed = True


def _looked_up(args: tuple[Any, ...], output: torch.Tensor) -> Samples | None:
    """An embedding: its vectors lie along a new last axis."""
    return _samples(args[1])


_SAMPLE_RULES: dict[str, _SampleRule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze"), _samples_viewed),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "cat", "repeat", "index", "index_select"), _samples_cut),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "std", "var", "select", "unbind"), _samples_left),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _multiplied),
    **dict.fromkeys(("convolution", "_convolution", "linear"), _by_a_kernel),
    "permute": _samples_permuted,
    "transpose": _samples_transposed,
    "t": _samples_transposed,
    "unsqueeze": _samples_unsqueezed,
    "stack": _samples_stacked,
    "expand": _samples_expanded,
    "embedding": _looked_up,
    "as_strided": lambda args, output: None,
}
