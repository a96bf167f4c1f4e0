"""What every printed page shares: the console, numbers as text, tables."""

from __future__ import annotations

import html
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import IO

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sesurgery.report.folding import FoldingTable
from sesurgery.words.text import listed

WIDTH = 100
HTML_WIDTH = 120
PATHS_SHOWN = 3

Draw = Callable[[Console], None]

_ASCII_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def make_console(
    file: IO[str] | None = None, *, width: int | None = None, record: bool = False, plain: bool = False
) -> Console:
    """A console for ``file`` (stdout where none is given).

    A terminal keeps its own width. A pipe gets ``COLUMNS`` or 100 columns and no colours, so that output does not
    depend on whichever terminal the pipe was started from.

    Args:
        plain: no colours whatever the environment asks for, as kernels of notebooks do.
    """
    stream = file or sys.stdout
    # In a notebook too the text goes to the file: rich would otherwise show it line by line in outputs of its own.
    console = Console(
        file=stream,
        width=width,
        record=record,
        force_terminal=False if plain else None,
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
    )
    if width is None and not console.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        console.width = int(columns) if columns.isdigit() and int(columns) > 0 else WIDTH
    return console


def text_of(draw: Draw, width: int = WIDTH) -> str:
    """What ``draw`` prints, as plain text."""
    out = io.StringIO()
    draw(make_console(out, width=width, plain=True))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def html_of(draw: Draw) -> str:
    """What ``draw`` prints, as HTML, with colours."""
    console = make_console(io.StringIO(), width=HTML_WIDTH, record=True)
    draw(console)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height: 1.25">{code}</pre>')


def html_as_text(thing: object) -> str:
    """What ``print`` shows of a thing, as HTML, without colours."""
    return f"<pre>{html.escape(str(thing))}</pre>"


def render_svg(draw: Draw, *, title: str = "", width: int = WIDTH) -> str:
    """What ``draw`` prints, as an SVG picture of a terminal.

    >>> picture = render_svg(lambda console: render_report(console, plan), title="sesurgery preview resnet50")
    """
    return _recorded(draw, width).export_svg(title=title)


_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{stylesheet}
body {{ background: #fff; color: #1f2328; margin: 2rem; }}
pre {{ font: 14px/1.35 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #0d1117; color: #e6edf3; }}
  pre span {{ filter: brightness(1.8); }}
}}
</style></head><body><h1 style="font: 600 1.1rem sans-serif">{title}</h1><pre>{code}</pre></body></html>
"""


def render_html(draw: Draw, *, title: str = "", width: int = HTML_WIDTH) -> str:
    """What ``draw`` prints, as a page that follows the reader's dark or light."""
    fields = {"{title}": html.escape(title), "{stylesheet}": "{stylesheet}", "{code}": "{code}"}
    form = re.sub(r"\{(?:title|stylesheet|code)\}", lambda field: fields[field[0]], _PAGE)
    return _recorded(draw, width).export_html(code_format=form)


def _recorded(draw: Draw, width: int) -> Console:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            file=nowhere,
            width=width,
            record=True,
            force_terminal=True,
            color_system="truecolor",
            highlight=False,
            markup=False,
            emoji=False,
            force_jupyter=False,
        )
        draw(console)
    return console


def count(number: int, *, sign: bool = False) -> str:
    """``27,136,424``; with ``sign`` ``+1,579,392``."""
    return f"{number:+,}" if sign and number else f"{number:,}"


def si(number: int, *, sign: bool = False) -> str:
    """``4.09 G``, ``811.01 k``, ``512``; with ``sign`` ``+1.58 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if round(abs(number) / size, 2) >= 1:
            return f"{number / size:{'+' if sign else ''}.2f} {unit}"
    return count(number, sign=sign)


def percent(before: int, after: int) -> str:
    """``+6.18 %``; empty where nothing changed or there is nothing to compare with."""
    return f"{100 * (after - before) / before:+.2f} %" if before and after != before else ""


def heading(console: Console, text: str) -> None:
    """Print one bold line."""
    console.print(Text(text, style="bold"))


def new_table(console: Console, *columns: str, right: Sequence[int] = ()) -> Table:
    """An empty table. Numbers (``right``) never wrap; words fold instead of being cut off."""
    box = _ASCII_HEAD if console.options.ascii_only else SIMPLE_HEAD
    table = FoldingTable(box=box, pad_edge=False, header_style="bold cyan", show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        number = index in right
        table.add_column(
            column, justify="right" if number else "left", no_wrap=number, overflow="ellipsis" if number else "fold"
        )
    return table


def dots(console: Console) -> str:
    """An ellipsis that the console's encoding has."""
    return "..." if console.options.ascii_only else "…"


def some(console: Console, paths: Sequence[str]) -> str:
    """The first few of ``paths``, and how many more there are."""
    return listed(paths, PATHS_SHOWN, joint=dots(console))


def sizes(shapes: Sequence[Sequence[int]]) -> str:
    """``3 x 224 x 224``; several inputs with a comma between them."""
    return ", ".join(" x ".join(map(str, shape)) or "1" for shape in shapes)


def plural(number: int, word: str) -> str:
    """``1 site``, ``3 sites``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
