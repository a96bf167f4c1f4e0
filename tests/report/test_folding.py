"""A table with no room for its columns becomes paragraphs: no digit is lost."""

from __future__ import annotations

import io
import re

import pytest

from sesurgery.report.layout import make_console, new_table


def printed(width: int) -> str:
    out = io.StringIO()
    console = make_console(out, width=width)
    table = new_table(console, "path", "stage", "params", "MACs", right=(1, 2, 3))
    table.add_row("layer4.0.se", "4", "+526,464", "+524.29 k")
    table.add_row("layer4.0.another_path_of_some_length", "4", "+1,579,392", "+1.57 M")
    console.print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [12, 20, 40, 60, 80, 120])
def test_every_number_is_whole_at_every_width(width: int) -> None:
    text = printed(width)
    assert {"+526,464", "+524.29", "+1,579,392", "+1.57"} <= set(re.findall(r"\+[\d,.]*\d", text))
    assert max(map(len, text.splitlines())) <= width


def test_paragraphs_name_what_each_number_is() -> None:
    assert [line.rstrip() for line in printed(40).splitlines()][:3] == [
        "layer4.0.se",
        "  stage 4, params +526,464,",
        "  MACs +524.29 k",
    ]
    assert printed(60).startswith("path ")
