"""Parameters that operations brought in, and optimizer groups that part them from the old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sesurgery.api import Surgery, network_of
from sesurgery.errors import InputError
from sesurgery.operating.backup import changed_children


def new_parameters(model: Surgery | nn.Module) -> list[nn.Parameter]:
    """The parameters that operations on ``model`` or a part of it brought in, also behind DDP or ``torch.compile``."""
    brought: dict[nn.Parameter, None] = {}
    for child, old in changed_children(network_of(model, "new_parameters")):
        kept = set() if old is None else set(old.parameters())
        brought.update(dict.fromkeys(parameter for parameter in child.parameters() if parameter not in kept))
    return list(brought)


def param_groups(
    model: Surgery | nn.Module,
    *,
    lr: float,
    new_lr: float | None = None,
    weight_decay: float = 0.0,
    decays: Callable[[str, nn.Parameter], bool] | None = None,
) -> list[dict[str, Any]]:
    """Groups for any optimizer of torch: old and new parameters, each with weight decay and without.

    Every parameter is in one group from the start, frozen ones too, so that nothing is added to the optimizer later.
    Besides ``params``, ``lr`` and ``weight_decay`` each group has its ``name`` (``"new, no decay"``) and ``new``, which
    :class:`Phases` reads; an optimizer and its state_dict keep both.

    Args:
        model: what ``apply`` returned, or an operated model.
        lr: of the old parameters.
        new_lr: of those that operations brought in; ``lr`` where left out.
        weight_decay: of weights. Biases, norms and scales (one axis or none) have none, nor what the model's
            ``no_weight_decay()`` names, as timm's models do.
        decays: says by name and parameter what has weight decay, in place of that rule.

    Returns:
        Up to four groups, none empty.

    Raises:
        InputError: the model has no parameter, or a rate or the weight decay is below 0 or no number.
    """
    for name, value in (("lr", lr), ("new_lr", new_lr), ("weight_decay", weight_decay)):
        if value is not None:
            check_from_0(name, value)
    body = network_of(model, "param_groups")
    fresh = set(new_parameters(body))
    decays = decays or _decays(body)
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in body.named_parameters():
        parts.setdefault((parameter in fresh, decays(name, parameter)), []).append(parameter)
    if not parts:
        raise InputError("has no parameter", where=type(body).__name__)
    return [
        {
            "params": parts[new, decay],
            "lr": new_lr if new and new_lr is not None else lr,
            "weight_decay": weight_decay if decay else 0.0,
            "name": f"{'new' if new else 'old'}{'' if decay else ', no decay'}",
            "new": new,
        }
        for new, decay in sorted(parts, reverse=True)
    ]


def check_from_0(name: str, value: Any, unit: str = "") -> None:
    """Raise ``InputError`` where ``value`` is below 0, or cannot be told to be more."""
    if not (isinstance(value, int | float | torch.Tensor) and value >= 0):
        raise InputError(f"{value}{unit} is below 0 or no number", where=name)


def _decays(model: nn.Module) -> Callable[[str, nn.Parameter], bool]:
    exempt: Iterable[str] = getattr(model, "no_weight_decay", tuple)()
    names = set(exempt)
    return lambda name, parameter: parameter.ndim > 1 and name not in names


def print_trainable_parameters(model: Surgery | nn.Module) -> None:
    """Print how many parameters are new and old, and how many of them are trained (``requires_grad``)."""
    body = network_of(model, "print_trainable_parameters")
    fresh = set(new_parameters(body))
    lines: list[str] = []
    for word, new in (("new", True), ("old", False)):
        mine = [parameter for parameter in body.parameters() if (parameter in fresh) is new]
        trained = sum(parameter.numel() for parameter in mine if parameter.requires_grad)
        lines.append(f"{word}: {trained:,} of {sum(parameter.numel() for parameter in mine):,} parameters are trained")
    print("\n".join(lines))
