"""Reasons why a node has no meaning at a port, in words a user understands. Imports no torch."""

from __future__ import annotations

from ..errors import Unfit
from .port import Port

MAX_POSITIONS = 4096


def divides(part: int, whole: int, what: str, option: str) -> None:
    """Raise ``Unfit`` unless ``whole`` (described by ``what``) is a multiple of ``part``, the value of ``option``."""
    if whole % part:
        raise Unfit(f"{option} {part} does not divide the {whole} {what}")


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
