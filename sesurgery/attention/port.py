"""Where a node is plugged in: the shape of the activation there and its channel axis. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sesurgery.errors import Unfit

LAYOUTS = {
    "nchw": "(N, C, H, W)",
    "nhwc": "(N, H, W, C)",
    "nlc": "(N, L, C)",
    "ncl": "(N, C, L)",
    "ncthw": "(N, C, T, H, W)",
    "nthwc": "(N, T, H, W, C)",
    "nc": "(N, C)",
    "n...c": "(N, ..., C)",
}
_BY_RANK_AND_AXIS = {
    (4, 1): "nchw",
    (4, 3): "nhwc",
    (3, 2): "nlc",
    (3, 1): "ncl",
    (5, 1): "ncthw",
    (5, 4): "nthwc",
    (2, 1): "nc",
}


@dataclass(frozen=True)
class Port:
    """The activation at a site.

    Attributes:
        shape: its shape, batch included.
        axis: its channel axis, counted from 0 (never negative, never the batch).

    Raises:
        ValueError: where ``axis`` is no axis of ``shape`` or is the batch.
    """

    shape: tuple[int, ...]
    axis: int

    def __post_init__(self) -> None:
        if not 0 < self.axis < len(self.shape):
            raise ValueError(f"channel axis {self.axis} of shape {self.shape}: expected 1 to {len(self.shape) - 1}")

    @property
    def channels(self) -> int:
        """Size of the channel axis."""
        return self.shape[self.axis]

    @property
    def rank(self) -> int:
        """Number of axes, batch included."""
        return len(self.shape)

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Every axis but the batch and the channels."""
        return tuple(axis for axis in range(1, self.rank) if axis != self.axis)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Sizes of every axis but the batch and the channels: (H, W) of a map, (L,) of tokens."""
        return tuple(self.shape[axis] for axis in self.spatial_axes)

    @property
    def positions(self) -> int:
        """How many positions a channel has: H * W of a map."""
        return prod(self.spatial)

    @property
    def layout(self) -> str:
        """One of ``LAYOUTS``, or ``"other"``."""
        rest = "n...c" if self.axis == self.rank - 1 else "other"
        return _BY_RANK_AND_AXIS.get((self.rank, self.axis), rest)

    @property
    def words(self) -> str:
        """The layout as people write it: ``(N, C, H, W)``."""
        return LAYOUTS.get(self.layout, f"{self.rank}-D with channels on axis {self.axis}")


MAX_POSITIONS = 4096


def divides(part: int, whole: int, unit: str, option: str) -> None:
    """Raise ``Unfit`` unless ``whole`` (counted in ``unit``) is a multiple of ``part``, the value of ``option``."""
    if whole % part:
        raise Unfit(f"{option} {part} does not divide the {whole} {unit}")


def kernel_fits(port: Port, kernel: int) -> None:
    """Raise ``Unfit`` where the outer taps of a padded kernel would never see anything but padding."""
    smallest = min(port.spatial)
    if kernel > 2 * smallest - 1:
        raise Unfit(
            f"a kernel of {kernel} is too large for the {size(port)} map: its outer taps would only ever see padding"
        )


def positions_fit(port: Port) -> None:
    """Raise ``Unfit`` where attention between all positions would need an absurd matrix."""
    if port.positions > MAX_POSITIONS:
        raise Unfit(
            f"attention between all {port.positions} positions of the {size(port)} map needs a "
            f"{port.positions} x {port.positions} matrix; use it where maps have at most {MAX_POSITIONS} positions"
        )


def block_that_fits(port: Port, asked: int | None, preferred: tuple[int, ...]) -> int:
    """The block size asked for, or the first preferred one that tiles the map."""
    tiles = [b for b in ((asked,) if asked else preferred) if all(side % b == 0 for side in port.spatial)]
    if not tiles:
        words = f"block_size {asked} does" if asked else f"blocks of {' or '.join(map(str, preferred))} do"
        raise Unfit(f"{words} not tile the {size(port)} map; set block_size to a divisor of its sides")
    return tiles[0]


def size(port: Port) -> str:
    """``7 x 7``."""
    return " x ".join(map(str, port.spatial))
