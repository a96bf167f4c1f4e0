"""What operated models can still do, over one small model a family: writes docs/compatibility.md.

    python benchmarks/compatibility.py                       # every family, resumes where it stopped
    python benchmarks/compatibility.py --family resnet --fresh
    python benchmarks/compatibility.py --report              # only write the page from the results there are

A feature that fails on the operated model is tried on the original too. One JSON line a family goes to
``compatibility.jsonl`` beside this script.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, Family
from features import FEATURES, NotApplicableError, operate, quiet
from parallel import distributed

HERE = Path(__file__).parent
RESULTS = HERE / "compatibility.jsonl"
PAGE = HERE.parent / "docs" / "compatibility.md"
DDP = "DDP (2 gloo)"
COLUMNS = (*FEATURES, DDP)
# Why, where the error alone does not say it.
EXPLAINED = {
    ("densenet", "checkpointing"): "its memory-efficient forward branches on requires_grad, so a node in it serves the "
    "plain forward only; checkpoint whole blocks instead (torch.utils.checkpoint)",
}
Cell = tuple[str, str]  # yes | no | neither (the original cannot) | absent (the library has no such thing), and why


def cell(family: Family, name: str, operated: torch.nn.Module) -> Cell:
    """What one feature makes of one operated model."""
    failure = _failure(family, name, copy.deepcopy(operated))
    if failure is None or failure[0] == "absent":
        return failure or ("yes", "")
    original = _failure(family, name, family.create())
    return failure if original is None else ("neither", original[1])


def _failure(family: Family, name: str, model: torch.nn.Module) -> Cell | None:
    try:
        with quiet():
            FEATURES[name](family, model)
    except NotApplicableError as reason:
        return "absent", str(reason)
    except Exception as error:
        return "no", spoken(error)
    return None


def spoken(error: Exception) -> str:
    """An error in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # the exporter colours its messages
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def row(family: Family, columns: Sequence[str] = tuple(FEATURES)) -> dict[str, Cell]:
    """All features of one family, DDP left out."""
    operated = operate(family)
    found = {name: cell(family, name, operated) for name in columns}
    torch._dynamo.reset()  # it keeps every model it compiled
    gc.collect()
    return found


def run(families: Sequence[Family]) -> None:
    """Examine the families and keep the results."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RESULTS.open("a", encoding="utf-8") as sink, Progress(*columns) as bar:
        task = bar.add_task("families", total=len(families))
        parallel = _parallel(families)
        for family in families:
            bar.update(task, description=family.name)
            found = {"family": family.name, "cells": {**row(family), DDP: parallel[family.name]}}
            sink.write(json.dumps(found) + "\n")
            sink.flush()
            bar.update(task, advance=1)


def _parallel(families: Sequence[Family]) -> dict[str, Cell]:
    if not families:
        return {}
    found = distributed(families)
    failed = [family for family in families if found[family.name]]
    originals = distributed(failed, operated=False) if failed else {}

    def judged(name: str) -> Cell:
        if not found[name]:
            return "yes", ""
        return ("neither", originals[name]) if originals[name] else ("no", found[name])

    return {family.name: judged(family.name) for family in families}


def results() -> dict[str, dict[str, Cell]]:
    """The results so far, in the order of the families."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    latest: dict[str, Any] = {found["family"]: found["cells"] for found in rows}
    ordered = [family.name for family in FAMILIES if family.name in latest]
    return {name: {key: tuple(value) for key, value in latest[name].items()} for name in ordered}


def page(found: dict[str, dict[str, Cell]]) -> str:
    """docs/compatibility.md as text."""
    counts = Counter(cells[name][0] for cells in found.values() for name in COLUMNS if name in cells)
    notes: dict[str, int] = {}
    table = list(_table(found, notes))
    lines = [
        "# Compatibility: what operated models can still do",
        "",
        "Written by `python benchmarks/compatibility.py`; do not edit. One small model a family, on CPU, in float32:",
        "created by its library, operated by the recipe that fits, then put through each feature and compared with its",
        f"own eager output. {', '.join(f'{name} {version(name)}' for name in ('torch', 'torchvision', 'timm'))}, "
        f"Python {platform.python_version()}.",
        "",
        f"- yes: {counts['yes']:,} of {sum(counts.values()):,} cells.",
        f"- no (with the reason below): {counts['no']:,}.",
        f"- orig.: the original model fails there too, so nothing was lost: {counts['neither']:,} (its reason below).",
        f"- –: the library has no such thing for this model: {counts['absent']:,}.",
        "",
        *table,
        "",
        "## What the columns mean",
        "",
        *(f"- **{name}**: {' '.join((FEATURES[name].__doc__ or '').split())}" for name in FEATURES),
        f"- **{DDP}**: two training steps under DistributedDataParallel on two processes; both end with equal weights.",
        "",
        "Not in the table: `torch.jit.script`, which torch calls deprecated. It takes many operated models, not all:",
        "a generated forward has no type annotations, and its checks of fixed values are plain Python.",
        "",
        "## Reasons",
        "",
        *([f"{number}. {text}" for text, number in notes.items()] or ["There are none: every cell is a yes."]),
    ]
    return "\n".join(lines) + "\n"


def _table(found: dict[str, dict[str, Cell]], notes: dict[str, int]) -> Iterator[str]:
    yield "| family | recipe | " + " | ".join(COLUMNS) + " |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    recipes = {family.name: family.recipe for family in FAMILIES}
    for name, cells in found.items():
        recipe = recipes[name]
        shown = recipe if isinstance(recipe, str) else recipe["name"]
        texts = [_text(_explained(name, column, cells[column]), notes) if column in cells else "" for column in COLUMNS]
        yield f"| {name} | {shown} | " + " | ".join(texts) + " |"


def _explained(family: str, column: str, found: Cell) -> Cell:
    more = EXPLAINED.get((family, column)) if found[0] == "no" else None
    return (found[0], f"{found[1]} – {more}") if more else found


def _text(found: Cell, notes: dict[str, int]) -> str:
    verdict, reason = found
    if verdict in ("yes", "absent"):
        return {"yes": "yes", "absent": "–"}[verdict]
    text = reason if verdict == "no" else f"(original) {reason}"
    number = notes.setdefault(text, len(notes) + 1)
    return f"{'no' if verdict == 'no' else 'orig.'} [{number}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", help="only this one (may be given several times)")
    parser.add_argument("--fresh", action="store_true", help="examine again what has a result")
    parser.add_argument("--report", action="store_true", help="only write docs/compatibility.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    done = set() if options.fresh else set(results())
    if not options.report:
        run([f for f in FAMILIES if f.name not in done and (not options.family or f.name in options.family)])
    PAGE.write_text(page(results()), encoding="utf-8")
    print(f"{len(results())} families: {PAGE.name}")


if __name__ == "__main__":
    main()
