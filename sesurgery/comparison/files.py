"""A comparison as files: all figures, and the best candidate as an ordinary recipe."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from sesurgery.comparison.rows import Comparison, Row, as_data
from sesurgery.errors import InputError
from sesurgery.words.text import reason


def write(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write ``comparison.csv``, ``comparison.json`` and, where there is a best candidate, ``best.yaml``.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    texts = {"comparison.csv": comparison.to_csv(), "comparison.json": json.dumps(as_data(comparison), indent=2) + "\n"}
    winner = comparison.best()
    if winner is not None:
        texts["best.yaml"] = recipe_text(winner, comparison)
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
    return "\n".join([*lines, yaml.safe_dump(dict(row.recipe_data), sort_keys=False, allow_unicode=True)])
