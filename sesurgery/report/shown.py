"""Plans, operations and inspections as they show themselves: ``print(plan)``, and HTML in a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sesurgery.plans import Inspection, Plan
from sesurgery.report.inspection import render_inspection
from sesurgery.report.layout import make_console
from sesurgery.report.plan import render_report, render_surgery

if TYPE_CHECKING:
    from sesurgery.api import Surgery

HTML_WIDTH = 120
Draw = Callable[[Console], None]


def drawing(thing: Plan | Inspection | Surgery) -> Draw:
    """What prints one of them."""
    if isinstance(thing, Plan):
        return lambda console: render_report(console, thing)
    if isinstance(thing, Inspection):
        return lambda console: render_inspection(console, thing)
    return lambda console: render_surgery(console, thing)


def as_text(thing: Any) -> str:
    """As text of at most 100 columns, without colours."""
    return text_of(drawing(thing))


def as_html(thing: Any) -> str:
    """As HTML, with colours, for a notebook."""
    return html_of(drawing(thing))


def text_of(draw: Draw) -> str:
    """What ``draw`` prints, as plain text."""
    out = io.StringIO()
    draw(make_console(out))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def html_of(draw: Draw) -> str:
    """What ``draw`` prints, as HTML."""
    console = make_console(io.StringIO(), width=HTML_WIDTH, record=True)
    draw(console)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height: 1.25">{code}</pre>')
