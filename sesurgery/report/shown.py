"""Plans, operations and inspections as they show themselves: ``print(plan)``, and HTML in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sesurgery.plans import Inspection, Plan
from sesurgery.report.inspection import render_inspection
from sesurgery.report.layout import Draw, html_of, text_of
from sesurgery.report.plan import render_report, render_surgery

if TYPE_CHECKING:
    from sesurgery.api import Surgery


def drawing(thing: Plan | Inspection | Surgery, **options: Any) -> Draw:
    """What prints one of them; ``code`` and ``every`` are options of a plan's report."""
    if isinstance(thing, Plan):
        return lambda console: render_report(console, thing, **options)
    if isinstance(thing, Inspection):
        return lambda console: render_inspection(console, thing, shell=False)
    return lambda console: render_surgery(console, thing, shell=False)


def as_text(thing: Any, **options: Any) -> str:
    """As text of at most 100 columns, without colours."""
    return text_of(drawing(thing, **options))


def as_html(thing: Any) -> str:
    """As HTML, with colours, for a notebook."""
    return html_of(drawing(thing))
