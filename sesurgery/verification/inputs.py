"""The inputs of a verification: one example, another batch, another resolution. The caller runs what it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.models import zoo
from sesurgery.models.input_size import read_input_size
from sesurgery.models.input_spec import rebuild
from sesurgery.operating.backup import MODEL_MARK
from sesurgery.recording.nested import map_tensors, tensors_in

Args = tuple[Any, ...]


class Inputs:
    """Makes inputs with values from a generator of its own: every call in the same order gives the same."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.generator = torch.Generator().manual_seed(0)
        # What is on meta is offloaded: its hooks bring it, and the inputs along.
        real = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta]
        self.device = next(iter(real), torch.empty(0)).device
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def examples(self, example: Any, size: Any) -> Iterator[Args]:
        """Positional arguments that the model may run on, the most plausible first.

        Args:
            example: what the user gave: a tensor or a tuple of arguments; tensors on ``meta`` get values.
            size: of one sample, in the place of an example.
        """
        if example is not None:
            yield self._filled(example if isinstance(example, tuple) else (example,), cast=False)
            return
        if size is None:
            for args in _operated_on(self.model):
                yield self._filled(args, cast=False)
                yield self._filled(args, cast=True)
        shape = None if size is None else read_input_size(size)
        for args in zoo.candidate_inputs(self.model, None, shape, device="meta"):
            yield self._filled(args, cast=True)

    def other_batches(self, args: Args, size: int) -> Iterator[tuple[int, Args]]:
        """The arguments with ``size`` samples: in a list of samples, or along the first axis."""
        samples = [arg for arg in args if isinstance(arg, list) and arg and isinstance(arg[0], Tensor)]
        if samples:
            yield size, tuple(self._longer(arg, size) if isinstance(arg, list) else arg for arg in args)
        first = next(iter(tensors_in(args)), None)
        if first is not None and first.ndim:
            yield size, self._resized(args, {0: size})

    def other_sizes(self, args: Args) -> Iterator[tuple[str, Args]]:
        """The arguments at other heights and widths, or lengths: an odd one first, then those that networks take."""
        first = next(iter(tensors_in(args)), None)
        if first is None or first.ndim < 2:
            return
        if first.ndim >= 3:
            high, wide = first.shape[-2:]
            rank = first.ndim
            for size in ((high + 3, wide + 5), (high + 32, wide), (2 * high, 2 * wide), (high // 2, wide // 2)):
                if min(size) > 0:
                    yield f"{size[0]} x {size[1]}", self._resized(args, {rank - 2: size[0], rank - 1: size[1]})
        for axis in range(first.ndim - 1, 0, -1) if first.ndim <= 3 else ():
            length = first.shape[axis] + 3
            yield f"length {length}", self._resized(args, {axis: length})

    def _filled(self, args: Args, *, cast: bool) -> Args:
        return map_tensors(lambda tensor: self._numbers(tensor, cast), args)

    def _numbers(self, tensor: Tensor, cast: bool) -> Tensor:
        if not tensor.is_meta:
            return tensor.detach()
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return torch.full(tensor.shape, tensor.dtype == torch.bool, dtype=tensor.dtype, device=self.device)
        kind = self.dtype if cast and tensor.is_floating_point() else tensor.dtype
        noise = torch.randn(tensor.shape, generator=self.generator)
        return noise.to(device=self.device, dtype=kind)

    def _longer(self, samples: list[Any], size: int) -> list[Any]:
        return [self._sampled(samples[index % len(samples)], {}) for index in range(size)]

    def _resized(self, args: Args, axes: Mapping[int, int]) -> Args:
        """Every tensor that is on these axes as large as the first tensor, made as large as ``axes`` says."""
        first = tensors_in(args)[0]

        def one(tensor: Tensor) -> Tensor:
            alike = tensor.ndim > max(axes) and all(tensor.shape[axis] == first.shape[axis] for axis in axes)
            same_rank = tensor.ndim == first.ndim or max(axes) == 0
            return self._sampled(tensor, axes) if alike and same_rank else tensor

        return map_tensors(one, args)

    def _sampled(self, tensor: Any, axes: Mapping[int, int]) -> Any:
        """A tensor of another shape, with values drawn from those that this one holds."""
        if not isinstance(tensor, Tensor) or not tensor.numel():
            return tensor
        shape = [axes.get(axis, size) for axis, size in enumerate(tensor.shape)]
        index = torch.randint(tensor.numel(), (math.prod(shape),), generator=self.generator)
        return tensor.flatten()[index.to(tensor.device)].reshape(shape)


def _operated_on(model: nn.Module) -> Iterator[Args]:
    """The inputs on which the model was operated, the last one first, without values."""
    history = model.__dict__.get(MODEL_MARK) or {}
    for described in reversed(history.get("inputs", ())):
        if described is not None:
            args = rebuild(described)
            yield args if isinstance(args, tuple) else (args,)


__all__ = ["Args", "Inputs"]
