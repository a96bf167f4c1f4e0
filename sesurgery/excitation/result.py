"""What gates do, as data, as a table and as a picture. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sesurgery.errors import InputError
from sesurgery.report.layout import WIDTH, heading, html_as_text, new_table, plural, text_of
from sesurgery.report.plan import print_notes

_PANELS = 6


@dataclass(frozen=True)
class Gate:
    """One attention layer. A gate is what the layer multiplies a channel of one sample by.

    Attributes:
        path, cls: where it is, and its class.
        stage: number of the stage, from 1; None where it belongs to none.
        channels: how many gates it has for a sample.
        mean: over samples and channels.
        by_sample: standard deviation over samples, averaged over channels: how far the gate looks at its input.
        by_channel: standard deviation over channels of their means.
        by_class: standard deviation over classes of their means, averaged over channels; None without classes.
        closed, open: share of gates within 5 % of the range from its lower and its upper end; None where the gate has
            no range.
        moved: mean distance from where a new layer starts: from the gate of 0 (0.5; 1 with ``init: identity``).
        profile: mean of each channel.
        class_profiles: the same for each class; empty without classes.
    """

    path: str
    cls: str
    stage: int | None
    channels: int
    mean: float
    by_sample: float
    by_channel: float
    by_class: float | None
    closed: float | None
    open: float | None
    moved: float
    profile: tuple[float, ...]
    class_profiles: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Gates:
    """The result of :func:`sesurgery.gates`.

    Attributes:
        model: its class, or its name.
        samples: how many were looked at.
        classes: names of the classes that occurred; empty without labels.
        layers: in the order of execution.
        notes: what a user should know.
    """

    model: str
    samples: int
    classes: tuple[str, ...]
    layers: tuple[Gate, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return text_of(lambda console: render_gates(console, self), WIDTH)

    def _repr_html_(self) -> str:
        return html_as_text(self)

    def figure(self, classes: Sequence[str] | None = None) -> Any:
        """The gates by channel, a panel for each of up to six layers from shallow to deep, a line for each class.

        As figure 5 of the SENet paper (arXiv:1709.01507). Needs matplotlib.

        Args:
            classes: those to draw; the first five where left out.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            InputError: matplotlib is not installed, there is no such class, or no gate was seen.
        """
        if not self.layers:
            raise InputError("there is no gate to draw", where=self.model, remedy="give weights and data")
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise InputError("a picture needs matplotlib", remedy="pip install matplotlib") from error
        drawn = list(self.classes[:5] if classes is None else classes)
        unknown = [name for name in drawn if name not in self.classes]
        if unknown:
            raise InputError(
                f'no sample is of class "{unknown[0]}"', remedy=f"classes are {', '.join(self.classes[:9])}"
            )
        layers = [self.layers[index] for index in _spread(len(self.layers), _PANELS)]
        figure = Figure(figsize=(5 * min(3, len(layers)), 3 * -(-len(layers) // 3)), layout="constrained")
        for place, gate in enumerate(layers, 1):
            axes = figure.add_subplot(-(-len(layers) // 3), min(3, len(layers)), place)
            axes.plot(gate.profile, color="black", linewidth=1, label="all")
            for name in drawn:
                axes.plot(gate.class_profiles[self.classes.index(name)], linewidth=0.8, label=name)
            axes.set_title(gate.path, fontsize=9)
            axes.set_xlabel("channel")
            axes.set_ylabel("gate")
        figure.axes[0].legend(fontsize=7)
        return figure


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` places of ``count``, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def render_gates(console: Console, result: Gates) -> None:
    """Print a row for each layer."""
    seen = f"{plural(result.samples, 'sample')}" + (f" of {len(result.classes)} classes" if result.classes else "")
    heading(console, f"{result.model}: {plural(len(result.layers), 'attention layer')}, {seen}")
    console.print(_table(console, result))
    print_notes(console, result.notes)


def _table(console: Console, result: Gates) -> Table:
    names = ["layer", "class", "stage", "channels", "mean", "by sample", "by channel"]
    names += ["by class"] if result.classes else []
    names += ["closed", "open", "moved"]
    table = new_table(console, *names, right=tuple(range(2, len(names))))
    for gate in result.layers:
        spreads = [gate.mean, gate.by_sample, gate.by_channel] + ([gate.by_class] if result.classes else [])
        shares = ["-" if share is None else f"{share:.0%}" for share in (gate.closed, gate.open)]
        stage = "-" if gate.stage is None else str(gate.stage)
        numbers = ["-" if value is None else f"{value:.3f}" for value in spreads]
        table.add_row(gate.path, gate.cls, stage, f"{gate.channels:,}", *numbers, *shares, f"{gate.moved:.3f}")
    return table
