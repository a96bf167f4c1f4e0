"""Help as plain text: options in groups, as wide as the terminal, down to 40 columns.

typer's own help draws boxes with rich, whose import takes as long as all the rest of ``--help``, and leaves the
descriptions a fifth of a narrow terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

NARROW = 72
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(TyperCommand):
    """A command whose help has a section for each ``rich_help_panel``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write all of it, no wider than the terminal."""
        formatter.width = _width(formatter.width)
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _write_params(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands, likewise."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write all of it, no wider than the terminal."""
        formatter.width = _width(formatter.width)
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options, then commands in the order of their sections."""
        _write_params(self, ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            title = getattr(command, "rich_help_panel", None)
            section = sections.setdefault(title if isinstance(title, str) else "Commands", [])
            section.append((name, command.get_short_help_str(200)))
        _write(formatter, sections)


class App(typer.Typer):
    """A typer whose commands and groups are these."""

    def __init__(self, *, cls: type[Group] = Group, **settings: Any) -> None:
        given: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, **settings}
        super().__init__(cls=cls, context_settings=CONTEXT, rich_markup_mode=None, **given)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As typer's, with this wing's ``Command``."""
        given: dict[str, Any] = {"cls": Command, **settings}
        return super().command(name, **given)


def _width(asked: int) -> int:
    """click never writes less than 50 columns."""
    return max(min(asked, shutil.get_terminal_size().columns - 1), 20)


def _write_params(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            argument = param.param_type_name == "argument"
            title = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
            name = record[0].partition(" <")[0] if argument else record[0]
            sections.setdefault(title, []).append((name, record[1].replace("  [required]", " [required]")))
    if len(sections) > 1:  # --help stands last, alone or not
        sections["Options"] = sections.pop("Options")
    _write(formatter, sections)


def _write(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    names = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
    first = 4 if formatter.width < NARROW else min(names, 30)
    for title, rows in sections.items():
        with formatter.section(title):
            # One column for all sections; on a narrow terminal what an option does stands in a line of its own.
            formatter.write_dl([(name.ljust(first), text) for name, text in rows], col_max=first)
