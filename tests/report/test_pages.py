"""Pages fit: wide, narrow, piped, in colours, in every encoding."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from reports import edit, plan, printed, report
from rich.console import Console

from sesurgery.plans import (
    Diff,
    Inspection,
    MergeInfo,
    Skip,
    Stage,
    Untraced,
)
from sesurgery.report.inspection import render_inspection
from sesurgery.report.layout import make_console, render_svg
from sesurgery.report.plan import render_report

LONG = "features.denseblock4.denselayer24.very_long_child_name.another_even_longer_child_name.conv_normal_activation.se"


STRESS = plan(
    (edit(4, 0, path=LONG), edit(1, 0, module="coordatt")),
    skipped=(Skip(LONG, "the merge is symmetric: both branches hold weights, so none of them is the identity " * 2),),
    diffs=(Diff((LONG, "other"), "Bottleneck", "", f"def forward(self, x):\n    return {LONG}(x, {LONG})\n"),),
)


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_wider_than_the_page_and_nothing_is_cut(width: int) -> None:
    text = printed(report(STRESS, notes=("word " * 60,)), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert LONG.replace(".", "") in re.sub(r"[^a-z_0-9]", "", text)
    assert "…" not in text


INSPECTION = Inspection(
    "resnet50",
    (Stage(1, 4.0, 56, 56, ("layer1.0", "layer1.1", "layer1.2")), Stage(2, None, None, None, ("layer2.0",))),
    (
        MergeInfo("layer1.0", "add", "projected", 1, 256),
        MergeInfo("layer1.1", "add", "identity", 1, 256),
        MergeInfo("layer1.2", "add", "identity", 1, 512),
        MergeInfo("", "cat", "concat", None, None),
    ),
    (Untraced("head", "Head", "forward uses a data-dependent branch"), Untraced("aux", "Head", "another [reason]")),
    traced=21,
)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_encoding_gets_a_page_it_can_write(encoding: str) -> None:
    many = plan(tuple(edit(3, block) for block in range(40)))
    assert "38 more" in printed(report(many), encoding=encoding)
    assert "numbers of this table" in printed(lambda console: render_inspection(console, INSPECTION), encoding=encoding)


def test_no_colours_in_a_pipe_and_a_width_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    stream = io.StringIO()
    console = make_console(stream)
    render_report(console, plan(), code=True)
    assert console.width == 100
    assert "\x1b" not in stream.getvalue()
    monkeypatch.setenv("COLUMNS", "72")
    assert make_console(io.StringIO()).width == 72


def test_terminals_see_colours() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="standard", width=100, _environ={})
    render_report(console, plan(), code=True)
    assert re.search(r"\x1b\[32m\+    x = self\.se", stream.getvalue())


def test_pictures_are_svg() -> None:
    picture = render_svg(report(plan()), title="sesurgery preview resnet50")
    assert picture.startswith("<svg")
    assert "layer4.2.se" in picture


@pytest.mark.parametrize("width", [80, 100])
def test_inspection_shows_stages_merges_and_what_was_not_traced(width: int) -> None:
    text = printed(lambda console: render_inspection(console, INSPECTION), width=width)
    assert re.search(r"1 +4 +56 x 56 +3 +layer1\.0 … layer1\.2", text)
    assert re.search(r"2 +- +- +1 +layer2\.0", text)
    assert re.search(r"1 +add +identity +256-512 +2 +layer1\.1, layer1\.2", text)
    assert re.search(r"- +cat +concat +- +1 +\(model\)", text)
    assert "another [reason]" in text
    assert "modules traced 21 of 23" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_paper_is_named_where_its_stages_are_shown() -> None:
    stages = tuple(Stage(index, 2.0 ** (index + 1), 8, 8, (f"layer{index}.0",)) for index in range(1, 5))
    merges = tuple(MergeInfo(f"layer{index}.0", "add", "identity", index, 64) for index in range(1, 5))
    named = Inspection("net", stages, merges, ())
    for inspection, hinted in (
        (named, True),
        (replace(named, stages=stages[:3]), False),
        (replace(named, merges=()), False),
    ):
        text = printed(lambda console, shown=inspection: render_inspection(console, shown))
        assert ("SE_Stage_4" in text) is hinted
    assert "stages= takes" in printed(lambda console: render_inspection(console, named, shell=False))
