"""What a surgery says: how to load it, how to undo it, how far the output moved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reports import plan, printed

from sesurgery.plans import (
    Cost,
)
from sesurgery.report.plan import drift_text, render_surgery


def surgery(drift: float | None) -> Any:
    made = plan(before=None, after=None)
    return SimpleNamespace(plan=made, before=Cost(10, 1, 1), after=Cost(15, 1, 1), notes=("a note",), drift=drift)


def test_a_surgery_says_how_to_load_and_undo_it() -> None:
    text = printed(lambda console: render_surgery(console, surgery(0.25), output=Path("out")))
    assert "+50.00 %" in text
    assert "sesurgery.load('out')" in text
    assert "sesurgery revert out -o FOLDER" in text
    assert "moved by 25 %" in text
    assert "--init identity" in text
    assert "note: a note" in text


def test_a_surgery_that_wrote_nothing_says_so() -> None:
    text = printed(lambda console: render_surgery(console, surgery(None), real=False))
    assert "nothing was written" in text
    assert "moved" not in text


def test_no_drift_is_said_without_a_remedy() -> None:
    assert "--init" not in drift_text(0.0)
