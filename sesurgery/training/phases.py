"""Freeze the old, warm the new, thaw: learning rates as a function of the epoch and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from sesurgery.errors import InputError
from sesurgery.training.groups import check_from_0


@dataclass(frozen=True)
class Phases:
    """Learning rates of old and new parameters by epoch. An epoch may be a fraction: 1.5 is halfway through the second.

    New parameters rise to their rate within ``warm`` epochs. Old ones wait for ``frozen`` epochs at a rate of 0, where
    an optimizer of torch moves them by nothing (Rprop aside, which takes no step below 1e-6), then rise to theirs
    within ``thaw`` epochs. What was done before an epoch plays no part, so a training may be resumed at any; no
    ``requires_grad`` changes, so DDP and an optimizer that was made at the start hold.

        optimizer = torch.optim.AdamW(param_groups(model, lr=1e-4, new_lr=1e-3))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Phases(frozen=2, thaw=1).lambdas(optimizer))

    Args:
        frozen, warm, thaw: epochs.

    Raises:
        InputError: one of them is below 0 or no number.
    """

    frozen: float = 1.0
    warm: float = 0.0
    thaw: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_from_0(name, value, " epochs")

    def factor(self, epoch: float, *, new: bool) -> float:
        """What the rate of new or of old parameters is multiplied by in an epoch, from 0 to 1."""
        start, length = (0.0, self.warm) if new else (self.frozen, self.thaw)
        if epoch < start:
            return 0.0
        # The first step of a rise is above 0, and the rise has ended when its epochs have: warm=1 warms epoch 0.
        return 1.0 if epoch >= start + length else (epoch - start + 1) / (length + 1)

    def lambdas(
        self, optimizer: Optimizer, shape: Callable[[float], float] = lambda epoch: 1.0
    ) -> list[Callable[[int], float]]:
        """One function of the epoch for each group of an optimizer, for ``LambdaLR``.

        Args:
            optimizer: with groups of :func:`param_groups`.
            shape: a schedule of your own, as a function of the epoch; rates are multiplied by it.

        Raises:
            InputError: a group says neither that its parameters are new nor that they are old.
        """
        return [lambda epoch, new=new: self.factor(epoch, new=new) * shape(epoch) for new in _news(optimizer)]

    def set(self, optimizer: Optimizer, epoch: float) -> None:
        """Set the rates of an optimizer for an epoch, where no scheduler does: ``initial_lr`` times the factor."""
        for group, new in zip(optimizer.param_groups, _news(optimizer), strict=True):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(epoch, new=new)


def _news(optimizer: Optimizer) -> list[bool]:
    news = [group.get("new") for group in optimizer.param_groups]
    if None in news:
        problem = "a group says neither that its parameters are new nor old"
        raise InputError(problem, where="optimizer", remedy="make the groups with sesurgery.training.param_groups")
    return [bool(new) for new in news]
