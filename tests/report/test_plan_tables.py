"""A plan as tables: edits, what was left alone, costs, notes."""

from __future__ import annotations

import re

import pytest
from reports import edit, plan, printed, report

from sesurgery.plans import Diff, Edit, OtherActivation, Skip, Swap, SwapChild
from sesurgery.report.plan import kind_of


def test_report_holds_edits_totals_and_the_diff() -> None:
    text = printed(report(plan()))
    for word in ("layer4.2.se", "1,024", "+4,000", "27,136,424", "+1,579,392", "4.09 G", "+6.18 %"):
        assert word in text
    assert "3 edits, insert se before residual add" in text
    assert "layer4.0 (Bottleneck)" in text
    assert "layer4.1, layer4.2: the same" in text
    assert "+    x = self.se(x)" in text


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


def swapped(name: str, before: str, after: str) -> tuple[Edit, Diff]:
    change = SwapChild((Swap(f"layer1.0.{name}", "", OtherActivation("silu")),))
    made = edit(1, 0, action="replace", at="a thing", module="SiLU", path=f"layer1.0.{name}", change=change)
    return made, Diff(("layer1.0",), "Block", f"self.{name} = {before}", f"self.{name} = {after}")


CONV = "Conv2d(32, 32, kernel_size=({0}, {0}), stride=(1, 1), padding=({1}, {1}), groups=32, bias=False)"


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("conv_dw", CONV.format(3, 1), CONV.format(5, 2), "replace a thing kernel 3 → 5"),
        ("act", "ReLU(inplace=True)", "SiLU(inplace=True)", "replace a thing ReLU → SiLU"),
        ("conv", "Conv2d(3, 4, stride=(2, 1))", "Conv2d(3, 4, stride=(1, 1))", "replace a thing stride (2, 1) → 1"),
    ],
)
def test_a_title_names_the_change(name: str, before: str, after: str, words: str) -> None:
    made, diff = swapped(name, before, after)
    assert kind_of(made, (diff,)) == words
    assert words in printed(report(plan((made,), diffs=(diff,))))
    assert words.replace("→", "->") in printed(report(plan((made,), diffs=(diff,))), encoding="ascii")
