"""Where the repository's own files lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "tests" / "facts"
