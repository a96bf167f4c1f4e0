"""Recipes as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sesurgery.recipe.phrases import PHRASES
from sesurgery.recipe.recipe import Recipe, to_data
from sesurgery.report.layout import heading, new_table


def render_recipes(console: Console, recipes: Sequence[Recipe]) -> None:
    """Print a table of names and summaries."""
    table = new_table(console, "recipe", "what it does")
    table.columns[0].no_wrap = True
    for recipe in recipes:
        table.add_row(recipe.name, recipe.summary or "-")
    console.print(table)
    console.print(Text("sesurgery recipes show NAME prints one; your own goes by its path: --recipe ./mine.yaml"))


def render_recipe(console: Console, recipe: Recipe, text: str) -> None:
    """Print the YAML ``text`` of a recipe with its comments, then what its rules mean, as comments too.

    No line of the YAML is wrapped, so that what is printed may be sent to a file and is the same recipe there.
    """
    for line in text.rstrip().splitlines():
        console.print(Text(line, style="dim" if line.lstrip().startswith("#") else ""), soft_wrap=True)
    console.print()
    heading(console, "# What it means:")
    for number, (rule, data) in enumerate(zip(recipe.rules, to_data(recipe)["rules"], strict=True), start=1):
        _comment(console, f"{number}. {sentence(data)}")
        _comment(console, f'   "{rule.at.name}": {PHRASES[rule.at.name].summary}', style="dim")


def _comment(console: Console, text: str, style: str = "") -> None:
    for line in textwrap.wrap(text, max(console.width - 2, 20), subsequent_indent="   "):
        console.print(Text(f"# {line}", style=style), soft_wrap=True)


def sentence(rule: Mapping[str, Any]) -> str:
    """A rule, as plain data, in words: ``insert se (reduction 16) before residual add; stages 4``."""
    action = next(key for key in rule if key not in ("at", "where", "if_present"))
    details = dict(rule[action])
    node = details.pop("module", "")
    options = ", ".join(f"{key} {_value(value)}" for key, value in details.items())
    words = [action, node, f"({options})" if options else "", str(rule["at"])]
    where = [f"{key} {_value(value)}" for key, value in rule.get("where", {}).items()]
    present = [f"attention that is already there: {rule['if_present']}"] if "if_present" in rule else []
    return "; ".join([" ".join(word for word in words if word), *where, *present])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_value(item)}" for key, item in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
