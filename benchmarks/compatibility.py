"""What operated models can still do, over one small model a family: writes docs/compatibility.md.

    pip install -e '.[exports]'
    python benchmarks/compatibility.py                       # every cell that has no result yet
    python benchmarks/compatibility.py --family resnet --fresh
    python benchmarks/compatibility.py --column ONNX --column OpenVINO
    python benchmarks/compatibility.py --report              # only write the page from the results there are

A feature that fails on the operated model is tried on the original too. One JSON line a family goes to
``compatibility.jsonl`` beside this script; a later line adds to what an earlier one says of the family.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from compatibility_cells import COLUMNS, DDP, Cell, cell, page
from families import FAMILIES, Family
from features import NEEDS, operate
from parallel import distributed

HERE = Path(__file__).parent
RESULTS = HERE / "compatibility.jsonl"
PAGE = HERE.parent / "docs" / "compatibility.md"


def row(family: Family, columns: Sequence[str], seconds: int) -> dict[str, Cell]:
    """Some features of one family, DDP left out, each within so many seconds."""
    operated = operate(family)
    found = {name: cell(family, name, operated, seconds) for name in columns}
    torch._dynamo.reset()  # it keeps every model it compiled
    gc.collect()
    return found


def run(wanted: dict[str, list[str]], seconds: int) -> None:
    """Examine these columns of these families and keep the results."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    families = [family for family in FAMILIES if wanted.get(family.name)]
    columns = (TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RESULTS.open("a", encoding="utf-8") as sink, Progress(*columns) as bar:
        task = bar.add_task("families", total=len(families))
        parallel = _parallel([family for family in families if DDP in wanted[family.name]])
        for family in families:
            bar.update(task, description=family.name)
            cells = row(family, [name for name in wanted[family.name] if name != DDP], seconds)
            if family.name in parallel:
                cells[DDP] = parallel[family.name]
            sink.write(json.dumps({"family": family.name, "cells": cells}) + "\n")
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
    latest: dict[str, dict[str, Any]] = {}
    for found in rows:
        latest.setdefault(found["family"], {}).update(found["cells"])
    ordered = [family.name for family in FAMILIES if family.name in latest]
    return {name: {key: tuple(value) for key, value in latest[name].items()} for name in ordered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", help="only this one (may be given several times)")
    parser.add_argument("--column", action="append", choices=COLUMNS, help="only this one (the same)")
    parser.add_argument("--fresh", action="store_true", help="examine again what has a result")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one cell (default: 600)")
    parser.add_argument("--report", action="store_true", help="only write docs/compatibility.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    done = {} if options.fresh else results()
    columns = options.column or [name for name in COLUMNS if all(map(find_spec, NEEDS.get(name, ())))]
    names = options.family or [family.name for family in FAMILIES]
    if not options.report:
        run({name: [column for column in columns if column not in done.get(name, {})] for name in names}, options.limit)
    PAGE.write_text(page(results()), encoding="utf-8")
    print(f"{len(results())} families: {PAGE.name}")


if __name__ == "__main__":
    main()
