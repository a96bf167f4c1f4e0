"""Another kernel, dilation or stride for a convolution; old weights keep the function where they can."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sesurgery.errors import Unfit
from sesurgery.plans import OtherConv
from sesurgery.recording.compat import same_convolution, set_border
from sesurgery.recording.recorder import Frame
from sesurgery.substitutes.registry import make

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@make.register
def _changed(new: OtherConv, old: nn.Module, *sources: nn.Module) -> nn.Module:
    assert isinstance(old, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return changed(old, new.kernel, new.dilation, new.stride, embed=new.embed, pad=new.pad)


def changed(
    old: Conv,
    kernel: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int] = (),
    *,
    embed: bool = True,
    pad: bool = True,
) -> nn.Module:
    """A convolution of the same class with another kernel, dilation and stride.

    Args:
        kernel, dilation, stride: per axis; the old stride where left out.
        embed: old weights go where they act on the same places; where dilation forbids that, into the middle. Else the
            new convolution starts with fresh weights.
        pad: the padding grows with the kernel, so that the map keeps its size; not for classes that pad by themselves.
    """
    weight = old._parameters.get("weight")
    if weight is None:
        raise Unfit("its weight is computed (weight norm or another parametrisation)")
    if old.padding_mode != "zeros" and any(size % 2 == 0 for size in kernel):
        raise Unfit(f"padding_mode {old.padding_mode} needs an odd kernel")
    new = copy.deepcopy(old)
    new.kernel_size, new.dilation = tuple(kernel), tuple(dilation)  # type: ignore[assignment]
    new.stride = tuple(stride or old.stride)  # type: ignore[assignment]
    if pad:
        new.padding = _padding(old, kernel, dilation)  # type: ignore[assignment]
    set_border(new, _both_sides(new))
    fresh = torch.zeros((*weight.shape[:2], *kernel), dtype=weight.dtype, device=weight.device)
    new.weight = nn.Parameter(fresh, requires_grad=weight.requires_grad)
    if not embed:
        new.reset_parameters()
        return new
    taps = [_taps(*sizes)[0] for sizes in zip(old.kernel_size, old.dilation, kernel, dilation, strict=True)]
    with torch.no_grad():
        index = (slice(None), slice(None), *torch.meshgrid(*(torch.tensor(to) for _, to in taps), indexing="ij"))
        source = (slice(None), slice(None), *torch.meshgrid(*(torch.tensor(of) for of, _ in taps), indexing="ij"))
        if not new.weight.is_meta:
            new.weight[index] = weight.detach()[source]
    return new


def embeds_exactly(old: Conv, kernel: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether every old weight finds a place that looks at the same input."""
    return all(_taps(*sizes)[1] for sizes in zip(old.kernel_size, old.dilation, kernel, dilation, strict=True))


def _taps(old: int, old_dilation: int, new: int, new_dilation: int) -> tuple[tuple[list[int], list[int]], bool]:
    """Which old weights go to which new places along one axis, and whether that keeps the function."""
    offsets = [(index - (old - 1) // 2) * old_dilation for index in range(old)]
    exact = [offset // new_dilation + (new - 1) // 2 for offset in offsets if offset % new_dilation == 0]
    if len(exact) == old and all(0 <= place < new for place in exact):
        return (list(range(old)), exact), True
    shift = (new - old) // 2
    kept = [index for index in range(old) if 0 <= index + shift < new]
    return (kept, [index + shift for index in kept]), False


def _padding(old: Conv, kernel: Sequence[int], dilation: Sequence[int]) -> str | tuple[int, ...]:
    if old.padding == "same":
        return "same"
    now = (0,) * len(kernel) if isinstance(old.padding, str) else old.padding
    paddings = []
    for padding, was, step, size, new_step in zip(now, old.kernel_size, old.dilation, kernel, dilation, strict=True):
        growth = new_step * (size - 1) - step * (was - 1)
        if growth % 2:
            raise Unfit(f"its kernel of {was} is even, and one of {size} cannot lie on the same centre")
        if padding + growth // 2 < 0:
            raise Unfit(f"a kernel of {size} would need a negative padding to keep the size of the map")
        paddings.append(padding + growth // 2)
    return tuple(paddings)


def _both_sides(conv: Conv) -> list[int]:
    """The padding in the form in which torch keeps it for its other padding modes."""
    if isinstance(conv.padding, str):
        totals = [step * (size - 1) if conv.padding == "same" else 0 for step, size in _axes(conv)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for side in reversed(conv.padding) for _ in range(2)]


def _axes(conv: Conv) -> list[tuple[int, int]]:
    return list(zip(conv.dilation, conv.kernel_size, strict=True))


@dataclass(frozen=True)
class Wanted:
    """What is asked of a convolution; None keeps what is there."""

    kernel: int | None = None
    dilation: int | None = None
    stride: int | None = None
    embed: bool = True


def settled(old: nn.Module, frames: Sequence[Frame], wanted: Wanted) -> OtherConv:
    """The convolution that takes its place, tried on meta.

    Args:
        old: the convolution, on meta.
        frames: its recorded calls, (N, C, H, W) or of another rank.

    Raises:
        Unfit: an even kernel, one larger than the map, or nothing that would change.
    """
    kernel = wanted.kernel
    if type(old) is nn.Identity:
        raise Unfit("it was removed already")
    if not isinstance(old, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise Unfit(f"a {type(old).__name__} has no kernel to change")
    rank = len(old.kernel_size)
    if kernel is not None and len(set(old.kernel_size)) > 1:
        shape = "x".join(map(str, old.kernel_size))
        raise Unfit(
            f"its kernel is {shape}, and one of {kernel} would make it square; narrow with where: {{kernel: ...}}"
        )
    sizes = old.kernel_size if kernel is None else (kernel,) * rank
    steps = old.dilation if wanted.dilation is None else (wanted.dilation,) * rank
    stride = () if wanted.stride is None or old.stride == (wanted.stride,) * rank else (wanted.stride,) * rank
    _check(old, frames, sizes, steps, stride)
    for pad in (True, False):
        new = OtherConv(tuple(sizes), tuple(steps), wanted.embed, pad, stride)
        if all(_gives(old, new, frame) for frame in frames):
            return new
    raise Unfit("its output would have another size")


def _check(
    old: Conv, frames: Sequence[Frame], sizes: Sequence[int], steps: Sequence[int], stride: Sequence[int]
) -> None:
    if tuple(sizes) == tuple(old.kernel_size) and tuple(steps) == tuple(old.dilation) and not stride:
        kernel, dilation = old.kernel_size[0], old.dilation[0]
        raise Unfit(f"it has kernel {kernel} and dilation {dilation} already, and stride {old.stride[0]}")
    if any(size % 2 == 0 for size in sizes) and tuple(sizes) != tuple(old.kernel_size):
        raise Unfit(f"a kernel of {max(sizes)} is even and would shift the map")
    for frame in frames:
        space = frame.args[0].shape[-len(sizes) :]
        extents = [step * (size - 1) + 1 for size, step in zip(sizes, steps, strict=True)]
        if any(extent > side for extent, side in zip(extents, space, strict=True)):
            shown = "x".join(map(str, space))
            dilated = f" dilated by {steps[0]}" if max(steps) > 1 else ""
            raise Unfit(f"a kernel of {sizes[0]}{dilated} is larger than the map of {shown}")


def _gives(old: Conv, new: OtherConv, frame: Frame) -> bool:
    """Whether the output has the size that the old kernel gives with the new stride."""
    as_it_was = replace(new, kernel=old.kernel_size, dilation=old.dilation)
    try:
        with torch.no_grad():
            output = _changed(new, old).eval()(frame.args[0])
            wanted = _changed(as_it_was, old).eval()(frame.args[0]) if new.stride else frame.output
    except Unfit:
        raise
    except (RuntimeError, ValueError):
        return False
    return output.shape == wanted.shape


def notes(old: nn.Module, new: OtherConv) -> tuple[str, ...]:
    """What a user should know: whether the function is kept."""
    assert isinstance(old, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    strided = (f"stride {old.stride[0]} -> {new.stride[0]}: the map behind it has another size",) if new.stride else ()
    return (*strided, *_weight_notes(old, new))


def _weight_notes(old: Conv, new: OtherConv) -> tuple[str, ...]:
    if not new.embed:
        return ("starts with fresh weights",)
    if not embeds_exactly(old, new.kernel, new.dilation):
        smaller = any(size < was for size, was in zip(new.kernel, old.kernel_size, strict=True))
        kept = "only the middle of the old weights is kept" if smaller else "the old weights look at other places"
        return (f"{kept}: the function changes",)
    key = (type(old), old.in_channels, old.out_channels, old.groups, old.stride, old.kernel_size, old.dilation)
    if not _plain(old) and not _keeps_function(_Trial(key, new, old)):
        return (f"{type(old).__name__} computes with its weights before it convolves: the function changes",)
    return ()


def _plain(conv: Conv) -> bool:
    return any(same_convolution(type(conv), known) for known in (nn.Conv1d, nn.Conv2d, nn.Conv3d))


@dataclass(frozen=True)
class _Trial:
    """A convolution to try out; equal ones share a trial."""

    key: tuple[Any, ...]
    new: OtherConv
    conv: Conv = field(compare=False)


@functools.lru_cache(maxsize=64)
def _keeps_function(trial: _Trial) -> bool:
    """Try a convolution with a forward of its own out on random numbers."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        old = copy.deepcopy(trial.conv).to_empty(device="cpu").float().eval()
        for tensor in [*old.parameters(), *old.buffers()]:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        new = _changed(trial.new, old).eval()
        x = torch.rand((1, old.in_channels, *(16,) * len(old.kernel_size)), generator=generator)
        return torch.allclose(old(x), new(x), rtol=1e-4, atol=1e-4)
