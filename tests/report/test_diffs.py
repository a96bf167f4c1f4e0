"""What changes in a host, as a diff."""

from __future__ import annotations

import re

from reports import AFTER, BEFORE, printed

from sesurgery.plans import (
    Diff,
)
from sesurgery.report.plan import diff_lines, print_diff, print_diffs


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


def test_many_different_hosts_are_folded_unless_all_are_asked_for() -> None:
    diffs = tuple(Diff((f"layer.{n}",), "Block", BEFORE.replace("conv", f"conv{n}"), AFTER) for n in range(98))
    folded = printed(lambda console: print_diffs(console, diffs))
    assert len(folded.splitlines()) < 100
    assert re.search(
        r"more hosts in \d+ more ways: layer\.\d+, .*; --all, or every=True, shows each", " ".join(folded.split())
    )
    whole = printed(lambda console: print_diffs(console, diffs, every=True))
    assert all(f"layer.{n} (Block)" in whole for n in range(98))
