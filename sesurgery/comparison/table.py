"""A comparison as a table for people, through rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sesurgery.comparison.rows import Comparison, Evidence, Row
from sesurgery.report.layout import count, heading, html_of, new_table, percent, plural, si, some, text_of

SHOWN = 40


def render_comparison(console: Console, comparison: Comparison, *, every: bool = False) -> None:
    """Print a comparison: Pareto-optimal rows are marked with a star, rows over budget are grey and say by how much.

    Args:
        every: all rows; else the first forty and every Pareto-optimal one.
    """
    rows = [row for row in comparison if row.cost is not None]
    refused = [row for row in comparison if row.cost is None]
    shown = rows if every else [row for index, row in enumerate(rows) if index < SHOWN or row.pareto]
    heading(console, f"{comparison.model}: {plural(len(rows), 'candidate')}")
    _print_rows(console, comparison, shown)
    if len(shown) < len(rows):
        console.print(Text(f"{len(rows) - len(shown)} more; --csv and --json have all", style="dim"))
    console.print(Text("* no other candidate is at least as good in everything and better in something", style="dim"))
    reasons: dict[str, list[str]] = {}
    for row in refused:
        reasons.setdefault(row.reason, []).append(row.name)
    for reason, names in reasons.items():
        console.print(Text(f"refused: {some(console, names)}: {reason}", style="yellow"))


def _print_rows(console: Console, comparison: Comparison, rows: Sequence[Row]) -> None:
    control = comparison.control
    trained = control.evidence is not None
    timed = control.latency is not None
    columns = ["", "candidate", "edits", "params", "MACs"]
    columns += ["memory"] if control.measure("activation_bytes") > 0 else []
    columns += ["latency"] if timed else []
    columns += [comparison.aim or "value", "gain", "verdict"] if trained else []
    columns += ["over budget"] if any(row.over for row in rows) else []
    right = [index for index, name in enumerate(columns) if name not in ("", "candidate", "verdict", "over budget")]
    table = new_table(console, *columns, right=right)
    table.add_row(*_cells(control, control, columns))
    for row in rows:
        table.add_row(*_cells(row, control, columns), style=("bold" if row.pareto else "") if row.within else "dim")
    console.print(table)


def _cells(row: Row, control: Row, columns: Sequence[str]) -> list[str]:
    if row is control:
        texts = {name: si(int(row.measure(key))) for name, key in _MEASURED if row.measure(key) == row.measure(key)}
    else:
        texts = {name: _more(row.measure(key), control.measure(key)) for name, key in _MEASURED}
    if row.latency is not None:
        texts["latency"] = f"{1000 * row.latency:.3g} ms"
    texts |= {"candidate": row.name, "edits": count(row.edits), "": "*" if row.pareto else ""}
    texts["over budget"] = ", ".join(f"{name} by {100 * value:.2g} %" for name, value in row.over.items())
    evidence = row.evidence
    if evidence is not None:
        texts |= {"gain": _gain(evidence), "verdict": evidence.verdict}
        texts[columns[columns.index("gain") - 1]] = f"{evidence.mean:.4g}"
    return [texts.get(name, "") for name in columns]


_MEASURED = (("params", "params"), ("MACs", "macs"), ("memory", "activation_bytes"))


def _more(here: float, there: float) -> str:
    if here != here or not there:
        return ""
    small = abs(here / there - 1) < 0.001
    return si(int(here - there), sign=True) if small else percent(int(there), int(here))


def _gain(evidence: Evidence) -> str:
    if evidence.gain is None:
        return ""
    if evidence.interval is None:
        return f"{evidence.gain:+.3g}"
    low, high = evidence.interval
    return f"{evidence.gain:+.3g} [{low:+.2g}, {high:+.2g}]"


def text(comparison: Comparison) -> str:
    """The table as plain text."""
    return text_of(lambda console: render_comparison(console, comparison))


def html(comparison: Comparison) -> str:
    """The table as HTML, for notebooks."""
    return html_of(lambda console: render_comparison(console, comparison))
