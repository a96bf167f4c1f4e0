"""A loss that keeps an operated model near what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from sesurgery.api import Surgery, network_of
from sesurgery.errors import InputError
from sesurgery.operating.perform import revert


class Distillation:
    """How far an operated model is from the unmodified one, as a loss (Hinton et al. 2015, arXiv:1503.02531).

    The teacher is a copy of the model, reverted: its weights are those that the old parameters have when this is made,
    so make it before training. It is in eval mode, is not trained, and is in no state_dict of the model.

        distillation = Distillation(surgery.model, temperature=2)
        loss = cross_entropy(output, target) + 0.5 * distillation(output, images)

    Args:
        model: what ``apply`` returned, or an operated model, also in DDP; it stays as it is.
        temperature: scores are divided by it, and the loss multiplied by its square.
        loss: ``loss(output, teacher's output)``, for what gives no scores (N, classes, ...); the divergence of their
            softmax over axis 1 where left out.

    Raises:
        InputError: no operation was performed on the model, or the temperature is not above 0.
    """

    def __init__(
        self, model: Surgery | nn.Module, temperature: float = 1.0, loss: Callable[[Any, Any], Tensor] | None = None
    ) -> None:
        body = network_of(model, "Distillation")
        if isinstance(body, DistributedDataParallel):  # waits for the layers that go
            body = body.module
        if not temperature > 0:
            raise InputError(f"{temperature} is not above 0", where="temperature")
        self.teacher: nn.Module = revert(copy.deepcopy(body)).eval().requires_grad_(False)
        self.temperature = temperature
        self.loss = loss or self._divergence

    def __call__(self, output: Any, *inputs: Any, **more: Any) -> Tensor:
        """The loss of an output; ``inputs`` are what the model was given for it."""
        with torch.no_grad():
            wanted = self.teacher(*inputs, **more)
        return self.loss(output, wanted)

    def _divergence(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """Kullback-Leibler divergence, a mean over samples and positions."""
        if not isinstance(scores, Tensor) or not isinstance(wanted, Tensor):
            problem, remedy = f"gives a {type(wanted).__name__}, which is no scores", "say how far two are: loss=..."
            raise InputError(problem, where=type(self.teacher).__name__, remedy=remedy)
        soft, hard = (F.log_softmax(each / self.temperature, dim=1) for each in (scores, wanted))
        each = F.kl_div(soft, hard, reduction="none", log_target=True).sum(1)
        return each.mean() * self.temperature**2
