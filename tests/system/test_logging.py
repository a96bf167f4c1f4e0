"""What is done is logged by the standard library, under the name of the package."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from networks import TINY

import sesurgery


def test_steps_are_information_and_sites_details(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.DEBUG, "sesurgery"):
        surgery = sesurgery.apply(TINY, "standard", stages="4")
        sesurgery.save(surgery, tmp_path / "kept")
        sesurgery.load(tmp_path / "kept")
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "sesurgery"]
    name = surgery.plan.model
    assert ("INFO", f"{name}: 1 edits planned, 3 sites left alone") in said
    assert ("INFO", f"{name}: operated, 1 modules changed") in said
    assert ("INFO", f"saved in {tmp_path / 'kept'}") in said
    assert ("INFO", f"loaded from {tmp_path / 'kept'}") in said
    assert ("DEBUG", f"{name}: insert layer4.0.se before residual add, by {surgery.plan.edits[0].route}") in said


def test_nothing_is_printed_unless_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    sesurgery.plan(TINY, "standard")
    assert capfd.readouterr() == ("", "")
