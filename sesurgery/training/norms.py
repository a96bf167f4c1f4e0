"""Norms whose running statistics stay as they are, whatever ``model.train()`` says."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn

from sesurgery.api import Surgery, network_of
from sesurgery.operating.backup import changed_children


def freeze_norms(model: Surgery | nn.Module, *, new: bool = False) -> int:
    """Keep the norms with running statistics in eval mode, also through ``model.train()``; returns how many.

    A small batch then moves no statistic that a large one made. Weights and biases of the norms stay parameters: they
    follow the learning rates of their groups. Copies and pickles of the model keep its norms frozen.

    Args:
        model: any model.
        new: whether norms that operations brought in are frozen too; their statistics are those of nothing yet.
    """
    body = network_of(model, "freeze_norms")
    norms = [norm for norm in _norms(body) if new or norm not in _inside_new(body)]
    for norm in norms:
        norm.__dict__["train"] = functools.partial(_stays, norm)
        norm.eval()
    return len(norms)


def thaw_norms(model: Surgery | nn.Module) -> int:
    """Undo :func:`freeze_norms`; returns how many norms were frozen. They get the mode of ``model``."""
    body = network_of(model, "thaw_norms")
    norms = [norm for norm in _norms(body) if "train" in norm.__dict__]
    for norm in norms:
        del norm.__dict__["train"]
        norm.train(body.training)
    return len(norms)


def _stays(norm: nn.Module, mode: bool = True) -> nn.Module:
    """``norm.train(mode)`` of a frozen norm."""
    for part in norm.modules():  # a norm of timm's holds its activation, which has no mode
        part.training = False
    return norm


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that keep running statistics of their own."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None and getattr(module, "track_running_stats", True):
            yield module


def _inside_new(model: nn.Module) -> set[nn.Module]:
    return {part for child, _ in changed_children(model) for part in child.modules()}
