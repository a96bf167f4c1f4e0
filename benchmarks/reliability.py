"""``docs/reliability.md``, section by section: each script renews its own."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

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


def machine() -> str:
    """The machine and what runs on it."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*: (.+)", info.read_text())
        cpu = found[1] if found else cpu
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm", "safetensors"))
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {cpu}, {system}, {versions}"
