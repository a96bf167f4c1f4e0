"""``preview --svg`` and ``--html``: what is printed, as a picture and as a page."""

from __future__ import annotations

from pathlib import Path

from stand_in import Engine, run


def test_a_preview_is_drawn_and_written(engine: Engine, tmp_path: Path) -> None:
    svg, page = tmp_path / "a.svg", tmp_path / "a.html"
    result = run("preview", "resnet18", "-r", "standard", "--svg", str(svg), "--html", str(page))
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [f"written: {svg}", f"written: {page}"]
    assert svg.read_text().startswith("<svg")
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    for words in ("viewport", "prefers-color-scheme: dark", "layer4.0.se", "+33,000"):
        assert words in text


def test_a_picture_of_another_kind_is_refused_before_any_work(engine: Engine, tmp_path: Path) -> None:
    result = run("preview", "resnet18", "-r", "standard", "--svg", str(tmp_path / "a.jpg"))
    assert (result.exit_code, engine.calls) == (2, {})
    assert "end it in .svg" in result.stderr
    assert "its folder does not exist" in run("preview", "r", "-r", "standard", "--svg", "nowhere/a.svg").stderr
