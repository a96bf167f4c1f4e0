"""What is printed for people: numbers, tables, diffs; on wide, narrow, piped and ASCII-only outputs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sesurgery.plans import (
    AppendBehind,
    AttentionLayer,
    Cost,
    Diff,
    Edit,
    Inspection,
    MergeInfo,
    Plan,
    Skip,
    Stage,
    Untraced,
)
from sesurgery.report.inspection import render_inspection
from sesurgery.report.layout import make_console, percent, render_svg, si
from sesurgery.report.plan import diff_lines, drift_text, print_diff, render_report, render_surgery

BEFORE = "def forward(self, x):\n    shortcut = x\n    x = self.conv(x)\n    x += shortcut\n    return x\n"
AFTER = BEFORE.replace("    x +=", "    x = self.se(x)\n    x +=")


def edit(stage: int, block: int, **changes: Any) -> Edit:
    path = f"layer{stage}.{block}.se"
    given: dict[str, Any] = {
        "action": "insert",
        "path": path,
        "at": "before residual add",
        "host": path[:-3],
        "stage": stage,
        "block": path[:-3],
        "channels": 256 * stage,
        "module": "se",
        "change": AppendBehind(AttentionLayer("se", {}, (1, 256 * stage, 7, 7), 1)),
        "params": 1000 * stage,
        "macs": 2_000_000,
    }
    return Edit(**{**given, **changes})


def plan(edits: tuple[Edit, ...] = (), **changes: Any) -> Plan:
    given: dict[str, Any] = {
        "model": "resnet50",
        "recipe": {"name": "standard"},
        "edits": edits or tuple(edit(4, block) for block in range(3)),
        "diffs": (Diff(("layer4.0", "layer4.1", "layer4.2"), "Bottleneck", BEFORE, AFTER),),
        "before": Cost(25_557_032, 4_089_184_256, 8_200_000_000),
        "after": Cost(27_136_424, 4_090_763_648, 8_203_000_000),
    }
    return Plan(**{**given, **changes})


def printed(draw: Any, *, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    draw(make_console(stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def report(made: Plan, **kwargs: Any) -> Any:
    return lambda console: render_report(console, made, code=True, **kwargs)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (512, "512"),
        (811_008, "811.01 k"),
        (4_089_184_256, "4.09 G"),
        (999_999_999, "1.00 G"),
        (-1_579_392, "-1.58 M"),
    ],
)
def test_si_numbers(number: int, text: str) -> None:
    assert si(number) == text


def test_differences_carry_their_sign() -> None:
    assert si(1_579_392, sign=True) == "+1.58 M"
    assert si(0, sign=True) == "0"
    assert percent(25_557_032, 27_136_424) == "+6.18 %"
    assert percent(0, 5) == ""


def test_report_holds_edits_totals_and_the_diff() -> None:
    text = printed(report(plan()))
    for word in ("layer4.2.se", "1,024", "+4,000", "27,136,424", "+1,579,392", "4.09 G", "+6.18 %"):
        assert word in text
    assert "3 edits, insert se before residual add" in text
    assert "layer4.0 (Bottleneck)" in text
    assert "layer4.1, layer4.2: the same" in text
    assert "+    x = self.se(x)" in text


def test_only_changed_lines_are_marked() -> None:
    signs = [sign for sign, _ in diff_lines(Diff(("a",), "A", BEFORE, AFTER))]
    assert signs == [" ", " ", " ", "+", " ", " "]


IN_A_FILE = Diff(("layer4.0", "layer4.1"), "Bottleneck", BEFORE, AFTER, "timm/models/resnet.py", 226)


def test_a_diff_of_a_file_is_headed_by_file_and_line_as_git_and_ruff_show_it() -> None:
    lines = printed(lambda console: print_diff(console, IN_A_FILE)).splitlines()
    assert lines == [
        "--- timm/models/resnet.py:226",
        "+++ layer4.0 (Bottleneck)",
        "@@ -226,5 +226,6 @@",
        " def forward(self, x):",
        "     shortcut = x",
        "     x = self.conv(x)",
        "+    x = self.se(x)",
        "     x += shortcut",
        "     return x",
        "layer4.1: the same",
        "",
    ]


def test_what_a_socket_holds_is_one_line() -> None:
    socket = Diff(tuple(f"layer{index}" for index in range(9)), "Block", "self.se: None", "self.se: SEModule(...)")
    lines = printed(lambda console: print_diff(console, socket)).splitlines()
    assert lines == [
        "layer0 (Block)",
        "self.se: None -> SEModule(...)",
        "layer1, layer2, layer3 … 5 more: the same",
        "",
    ]


def test_a_long_forward_is_shown_around_its_changes_only() -> None:
    body = [f"    x{index} = self.conv{index}(x)" for index in range(60)]
    changed = [*body[:10], "    a = 1", *body[10:50], "    b = 2", *body[50:]]
    lines = list(diff_lines(Diff(("a",), "A", "\n".join(body), "\n".join(changed))))
    assert [line for sign, line in lines if sign == "+"] == ["    a = 1", "    b = 2"]
    assert [sign for sign, _ in lines].count("~") == 1
    assert len(lines) < 20


def test_a_host_whose_code_stays_says_so() -> None:
    text = printed(lambda console: print_diff(console, Diff(("a",), "A", BEFORE, BEFORE)))
    assert "its forward stays as it is" in text


def test_rules_of_several_kinds_name_the_kind_in_each_row() -> None:
    text = printed(report(plan((edit(1, 0), edit(2, 0, module="eca", path="layer2.0.eca")))))
    assert re.search(r"layer1\.0\.se +insert se before residual add", text)
    assert re.search(r"layer2\.0\.eca +insert eca before residual add", text)


def test_many_edits_are_folded_by_stage_and_still_add_up() -> None:
    edits = tuple(edit(stage, block) for stage, blocks in ((1, 3), (2, 4), (3, 36)) for block in range(blocks))
    text = printed(report(plan(edits)))
    assert "layer1.2.se" in text
    assert "layer3.1.se" in text
    assert "layer3.2.se" not in text
    assert re.search(r"… 34 more +3 +\+102,000 +\+68.00 M", text)


def test_a_dozen_edits_are_all_shown() -> None:
    text = printed(report(plan(tuple(edit(3, block) for block in range(12)))))
    assert "layer3.11.se" in text
    assert "more" not in text


def test_sites_left_alone_are_folded_by_reason() -> None:
    skipped = (
        *(Skip(f"layer1.{i}", "no 3x3 conv") for i in range(9)),
        Skip("", "add of a constant", "before residual add"),
    )
    text = printed(report(plan(skipped=skipped)))
    assert re.search(r"no 3x3 conv +9 +layer1\.0, layer1\.1, layer1\.2 … 6 more", text)
    assert re.search(r"add of a constant +1 +\(model\)", text)


def test_notes_are_printed_once_with_their_count() -> None:
    noted = tuple(edit(4, block, notes=("mounted twice",)) for block in range(3))
    text = printed(report(plan(noted), notes=("random weights",)))
    assert "note: mounted twice (3 times)" in text
    assert "note: random weights" in text


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
