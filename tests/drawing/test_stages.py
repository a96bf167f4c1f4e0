"""What stages cost, as bars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stand_in import run

import sesurgery
from sesurgery.drawing.stages import stage_figure
from sesurgery.errors import InputError


def test_bars_are_the_shares_of_the_stages() -> None:
    inspection = sesurgery.inspect("resnet18")
    assert inspection.cost is not None
    figure = stage_figure(inspection)
    macs = next(axes for axes in figure.axes if axes.get_title() == "MACs")
    wanted = [100 * cost.macs / inspection.cost.macs for cost in inspection.stage_costs]
    assert [bar.get_width() for bar in macs.patches] == pytest.approx([*wanted, 100 - sum(wanted)])
    with pytest.raises(InputError, match="no stages"):
        stage_figure(replace(inspection, stage_costs=()))


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        assert run("inspect", "resnet18", "--picture", str(tmp_path / name)).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
