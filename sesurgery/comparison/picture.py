"""A comparison as a picture: cost against value, or cost against cost. Drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sesurgery.comparison.rows import Comparison, Row
from sesurgery.errors import InputError

_NAMES = {
    "params": "parameters",
    "macs": "MACs",
    "flops": "FLOPs",
    "activation_bytes": "activation bytes",
    "weight_bytes": "weight bytes",
    "latency": "latency",
}
_PLACES = tuple((x, y) for y in (6, -6, 16, -16, 28, -28, 42, -42) for x in (6, -6))


def draw(comparison: Comparison, file: str | Path, x: str = "params", y: str | None = None) -> None:
    """Write one picture (``.svg``, ``.png`` or ``.pdf``); labels never overlap, those that find no room are left out.

    Args:
        x: the measure across.
        y: the measure upwards; what training said where it was trained, else MACs.

    Raises:
        InputError: matplotlib is not installed, or the ending of the file is unknown to it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a picture needs matplotlib", remedy="pip install 'sesurgery[compare]'") from None
    trained = comparison.control.evidence is not None
    y = y or ("value" if trained else "macs")
    rows = [row for row in comparison if row.cost is not None]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    points = [(_at(row, comparison.control, x), _at(row, comparison.control, y)) for row in rows]
    for row, (across, up) in zip(rows, points, strict=True):
        colour = "tab:orange" if row.pareto else "tab:blue"
        axes.plot(across, up, "o", color=colour if row.within else "lightgrey", markersize=5)
        if y == "value" and row.evidence is not None and row.evidence.interval is not None:
            low, high = row.evidence.interval
            axes.plot([across, across], [low, high], color=colour, linewidth=0.8)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set_xlabel(f"{_NAMES[x]}, % more than unmodified")
    axes.set_ylabel(f"gain in {comparison.aim or 'value'}" if y == "value" else f"{_NAMES[y]}, % more than unmodified")
    axes.set_title(comparison.model)
    label(figure, axes, [row.name for row in rows], points, [row.pareto for row in rows])
    try:
        figure.savefig(str(file))
    except ValueError as error:
        raise InputError(str(error), where=str(file), remedy="end it in .svg, .png or .pdf") from None


def label(
    figure: Any, axes: Any, names: Sequence[str], points: Sequence[tuple[float, float]], first: Sequence[bool]
) -> list[Any]:
    """Put names beside points, those marked ``first`` first; a name that would cover another or a point is left out."""
    figure.draw_without_rendering()
    spots = [axes.transData.transform(point) for point in points]
    boxes: list[Any] = []
    drawn: list[Any] = []
    for index in sorted(range(len(names)), key=lambda index: not first[index]):
        for across, up in _PLACES:
            side = "left" if across > 0 else "right"
            words = axes.annotate(
                names[index],
                points[index],
                (across, up),
                textcoords="offset points",
                fontsize=7,
                ha=side,
                va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.3, "color": "grey"} if abs(up) > 6 else None,
            )
            box = words.get_window_extent(figure.canvas.get_renderer())
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            free = not any(box.overlaps(other) for other in boxes) and not any(box.contains(*spot) for spot in spots)
            if inside and free:
                boxes.append(box)
                drawn.append(words)
                break
            words.remove()
    return drawn


def _at(row: Row, control: Row, measure: str) -> float:
    if measure == "value":
        gain = row.evidence.gain if row.evidence is not None else None
        return float("nan") if gain is None else gain
    there = control.measure(measure)
    return 100 * (row.measure(measure) / there - 1) if there else float("nan")
