"""``docs/reliability.md``, section by section: each script renews its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from machine import machine

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
HEAD = "# Reliability\n\nGenerated: each section by the command it names.\n"


def write_section(title: str, command: str, text: str, rows: Sequence[str]) -> None:
    """Put a section into the page, in the place of the one with its title."""
    old = PAGE.read_text() if PAGE.exists() else HEAD
    parts = re.split(r"(?m)^(?=## )", old)
    body = "\n".join([f"## {title}", "", f"`{command}`, {date.today()}, on {machine()}.", "", text, "", *rows, ""])
    sections = {part.splitlines()[0][3:]: part.rstrip() + "\n" for part in parts[1:]}
    sections[title] = body
    PAGE.write_text("\n".join([HEAD, *(sections[name] for name in sorted(sections))]))
