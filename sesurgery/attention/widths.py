"""How wide the squeezed layer of a node is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sesurgery.attention.registry import entry


def make_divisible(value: float, divisor: int = 8, round_limit: float = 0.9) -> int:
    """Round a width to a multiple of ``divisor``, at least one; the rule of timm and torchvision.

    A result below ``round_limit * value`` goes up by one ``divisor``; 0 turns that off, as timm's SE does.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * value else rounded


def reduced_channels(name: str, channels: int, options: Mapping[str, Any]) -> int | None:
    """Width of the squeezed layer of node ``name`` when it is reduced from ``channels``.

    ``rd_channels`` wins over ``reduction``. With ``reduce_from: block input`` the width is ``round(channels /
    reduction)``, as in RegNetY and EfficientNet, unless ``rd_divisor`` is asked for. None where the node has none.

    Raises:
        UnknownNameError: where no node has that name.
    """
    layer = entry(name)
    if "rd_channels" not in layer.options or "reduction" not in layer.options:
        return None
    settings = {"reduction": 16, **layer.defaults, **options}
    if settings.get("rd_channels"):
        return int(settings["rd_channels"])
    from_block = settings.get("reduce_from") == "block input" and "rd_divisor" not in options
    divisor = 1 if from_block else int(settings.get("rd_divisor", 1))
    rounding = "nearest" if from_block else layer.rounding
    return squeezed(channels, settings["reduction"], divisor, rounding)


def squeezed(channels: int, reduction: float, divisor: int, rounding: str) -> int:
    """Apply one of the rounding rules in use.

    ``timm``: multiple of ``divisor``, no limit; ``limited``: the same, never more than 10 % narrower; ``nearest``:
    like ``limited``, but without a divisor the nearest whole number, halves to even; ``floor``: downwards.
    """
    if rounding == "floor":
        return max(1, int(channels // reduction))
    # Not channels / reduction: native models multiply by a ratio, and the two differ in the last bit.
    value = channels * (1 / reduction)
    if rounding == "nearest" and divisor == 1:
        return max(1, round(value))
    return make_divisible(value, divisor, 0.0 if rounding == "timm" else 0.9)
