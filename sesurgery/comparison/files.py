"""A comparison as files: all figures, and the best candidate as an ordinary recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sesurgery.comparison.rows import Comparison, Row, as_data
from sesurgery.errors import InputError
from sesurgery.words.text import reason


def texts_of(comparison: Comparison) -> dict[str, str]:
    """``comparison.csv``, ``comparison.json`` and, where there is a best candidate, ``best.yaml``."""
    texts = {"comparison.csv": comparison.to_csv(), "comparison.json": json.dumps(as_data(comparison), indent=2) + "\n"}
    winner = comparison.best()
    return texts if winner is None else {**texts, "best.yaml": recipe_text(winner, comparison)}


def write_texts(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write files by name into a folder, which is made where it is not there. Raises ``InputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {reason(error)}", where=str(folder)) from error
    return [folder / name for name in texts]


def recipe_text(row: Row, comparison: Comparison) -> str:
    """A candidate as an ordinary recipe, with its evidence as comments."""
    lines = [f"# {row.name}: the best of {len(comparison)} candidates on {comparison.model}."]
    if comparison.budget:
        lines.append(f"# Within {comparison.budget}.")
    evidence = row.evidence
    if evidence is not None and evidence.gain is not None:
        bounds = "" if evidence.interval is None else " [{:+.4g}, {:+.4g}]".format(*evidence.interval)
        lines.append(f"# {comparison.aim} {evidence.mean:.4g}, gain {evidence.gain:+.4g}{bounds}: {evidence.verdict}.")
    return commented(lines, row.recipe_data)


def commented(lines: Sequence[str], recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML behind comments."""
    return "\n".join([*lines, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)])
