"""What a measurement of time says, as data and as text for people. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median, quantiles

from rich.console import Console

from sesurgery.report.layout import heading, html_as_text, new_table, plural, sizes, text_of

_SURE = 0.95  # that the true ratio lies in the interval


@dataclass(frozen=True)
class Latency:
    """Times of a model before and after an operation, taken in turns.

    Attributes:
        device: the processor by name.
        batch: samples of one forward.
        threads: of the CPU.
        inputs: the shapes of one sample, without the axis of samples.
        pairs: seconds of one forward before and after, pair by pair.
    """

    device: str
    batch: int
    threads: int
    inputs: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[float, float], ...]

    @property
    def before(self) -> float:
        """Median seconds of one forward of the original."""
        return median(old for old, _ in self.pairs)

    @property
    def after(self) -> float:
        """Median seconds of one forward of the operated model."""
        return median(new for _, new in self.pairs)

    @property
    def ratio(self) -> float:
        """After over before: the median over the pairs, so that what slows both down does not count."""
        return median(self._ratios())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true ratio lies, with a certainty of 95 %: order statistics of the pairs, as of any median."""
        ratios = sorted(self._ratios())
        return ratios[(cut := _cut(len(ratios)))], ratios[-1 - cut]

    @property
    def within_noise(self) -> bool:
        """Whether the pairs leave open which of the two is faster."""
        low, high = self.interval
        return low <= 1 <= high

    def _ratios(self) -> list[float]:
        return [new / old for old, new in self.pairs]

    def __str__(self) -> str:
        return text_of(lambda console: render_latency(console, self))

    def _repr_html_(self) -> str:
        return html_as_text(self)


def _cut(count: int) -> int:
    """How many of ``count`` sorted values may be left out at each end of an interval for their median."""
    tail, cut = 0.5**count, 0
    while cut < (count - 1) // 2 and 2 * (tail := tail + math.comb(count, cut + 1) * 0.5**count) < 1 - _SURE:
        cut += 1
    return cut


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def render_latency(console: Console, latency: Latency) -> None:
    """Print medians, spread, the ratio, and whether it is within the noise."""
    threads = f", {plural(latency.threads, 'thread')}" if latency.threads else ""
    batch = f"{latency.batch} x {sizes(latency.inputs)}"
    heading(console, f"latency of one forward of {batch}, {plural(len(latency.pairs), 'pair')}")
    table = new_table(console, "", "median", "quartiles", right=(1, 2))
    for name, times in zip(("before", "after"), zip(*latency.pairs, strict=True), strict=True):
        low, middle, high = quantiles(times, n=4, method="inclusive")
        table.add_row(name, f"{_ms(middle)} ms", f"{_ms(low)} to {_ms(high)}")
    console.print(table)
    low, high = latency.interval
    verdict = ": within noise" if latency.within_noise else ""
    console.print(f"ratio {latency.ratio:.3f} (95 %: {low:.3f} to {high:.3f}){verdict}")
    console.print(f"on {latency.device}{threads}", style="dim")
