"""Statistics of batch norms for the layers that are on: those of a training with random switches fit no setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sesurgery.recording.compat import BatchNorm


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """The norms of ``model`` that evaluate with statistics of its training."""
    return [norm for norm in model.modules() if isinstance(norm, BatchNorm) and norm.num_batches_tracked is not None]


@contextmanager
def renewed(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Norms average the statistics of all batches that run here, whatever mode the model is put in, and keep them.

    Before a subnet of a network with random paths is judged: Guo et al. 2020 (arXiv:1904.00420), section 3.4. A norm
    that is given one value a channel, or does not run, keeps those that it has.
    """
    momenta = [norm.momentum for norm in norms]
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain mean over the batches since the count was 0
        norm.get_buffer("num_batches_tracked").zero_()
    try:
        yield
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum = momentum
            norm.eval()
            hook.remove()


def _measure(norm: BatchNorm, args: tuple[Any, ...]) -> None:
    norm.training = args[0].numel() > args[0].shape[1]
