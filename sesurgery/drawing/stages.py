"""What the stages of a model cost, as bars. Drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sesurgery.errors import InputError
from sesurgery.plans import Inspection

_MEASURES = (
    ("params", "parameters"),
    ("macs", "MACs"),
    ("activation_bytes", "activation bytes"),
    ("weight_bytes", "weight bytes"),
)


def stage_figure(inspection: Inspection) -> Any:
    """The share of each stage in parameters, MACs, activation bytes and weight bytes, a panel each.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: matplotlib is not installed, or the model has no stages.
    """
    whole, stages = inspection.cost, inspection.stage_costs
    if whole is None or not stages:
        raise InputError("has no stages to draw", where=inspection.model)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError("a picture needs matplotlib", remedy="pip install matplotlib") from error
    several = len({stage.region for stage in inspection.stages}) > 1
    names = [f"{stage.region} {stage.index}" if several else str(stage.index) for stage in inspection.stages]
    figure = Figure(figsize=(11, 0.45 * len(names) + 1.6), layout="constrained")
    figure.suptitle(f"{inspection.model}: where it costs, by stage")
    for place, (key, title) in enumerate(_MEASURES, 1):
        total = getattr(whole, key) or 1
        shares = [100 * getattr(cost, key) / total for cost in stages]
        axes = figure.add_subplot(1, len(_MEASURES), place)
        bars = axes.barh([*names, "elsewhere"], [*shares, max(0.0, 100 - sum(shares))], color="#2f6f9f")
        axes.bar_label(bars, fmt="%.0f %%", fontsize=8, padding=2)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 115)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelleft=place == 1, bottom=False, labelbottom=False)
    return figure


def save_figure(figure: Any, file: str | Path) -> None:
    """Write a figure; the ending says its form, and a picture of an unchanged model is the same, byte for byte."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "sesurgery"}):
        figure.savefig(str(file), metadata={"Date": None} if str(file).endswith(".svg") else None)
