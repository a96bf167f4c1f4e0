"""What operated models can still do, over one small model a family: writes docs/compatibility.md.

    python benchmarks/compatibility.py                       # every family, resumes where it stopped
    python benchmarks/compatibility.py --family resnet --fresh
    python benchmarks/compatibility.py --report              # only write the page from the results there are

A feature that fails on the operated model is tried on the original too. One JSON line a family goes to
``compatibility.jsonl`` beside this script.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from compatibility_cells import DDP, Cell, cell, page
from families import FAMILIES, Family
from features import FEATURES, operate
from parallel import distributed

HERE = Path(__file__).parent
RESULTS = HERE / "compatibility.jsonl"
PAGE = HERE.parent / "docs" / "compatibility.md"


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
