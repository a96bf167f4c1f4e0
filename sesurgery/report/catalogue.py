"""Layers and places as text for people: what there is, and what each means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from sesurgery.attention import registry as layers
from sesurgery.attention.options import Entry
from sesurgery.recipe.phrases import Phrase
from sesurgery.report.layout import heading, new_table


def render_layers(console: Console, entries: Iterable[Entry]) -> None:
    """Print a table of names and summaries."""
    table = new_table(console, "layer", "what it is", "source")
    table.columns[0].no_wrap = True
    for entry in entries:
        table.add_row(entry.name, entry.summary or "-", entry.source or "-")
    console.print(table)
    short = ", ".join(f"{alias} is short for {name}" for alias, name in layers.ALIASES.items())
    console.print(Text(f"sesurgery layers show NAME lists the options of one; {short}"))


def render_layer(console: Console, entry: Entry) -> None:
    """Print one layer with its options and their defaults."""
    heading(console, f"{entry.name}: {entry.summary}")
    console.print(Text(f"source: {entry.source or '-'}"))
    console.print(Text(f"on: {', '.join(words for key, words in layers.LAYOUTS.items() if key in entry.layouts)}"))
    if entry.bound:
        console.print(Text(f"note: {entry.bound.format(size='the size at its place')}"))
    console.print()
    table = new_table(console, "option", "default", "may be")
    defaults = {"init": "paper", "reduce_from": "site", **entry.defaults}
    for key in sorted(entry.accepted):
        table.add_row(key, _shown(defaults.get(key)), layers.choices(entry, key))
    console.print(table)


def _shown(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def render_places(console: Console, phrases: Sequence[Phrase], counts: Mapping[str, int] | None = None) -> None:
    """Print phrases with one sentence and one example each, and how many places each has in a model, where given."""
    for title, place in (("for insert", True), ("for replace, remove and rewire", False)):
        chosen = [phrase for phrase in phrases if (phrase.role == "place") is place]
        if chosen:
            heading(console, f"at: {title}")
            for phrase in chosen:
                _phrase(console, phrase, counts)
            console.print()


def _phrase(console: Console, phrase: Phrase, counts: Mapping[str, int] | None) -> None:
    more = [word for word, taken in (("a number", phrase.ordinal), (", bare", phrase.bare)) if taken]
    number = "" if counts is None else f" [{counts.get(phrase.name, 0)} there]"
    console.print(Text(f"{phrase.name}{number}", style="bold"))
    takes = f" (takes {' and '.join(more)})" if more else ""
    console.print(Text(f"    {phrase.summary}{takes}"))
    if phrase.example[0]:
        console.print(Text(f"    - {phrase.example[0]}", style="dim"))
        console.print(Text(f"    + {phrase.example[1]}", style="dim"))
