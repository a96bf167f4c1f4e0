"""What one operated model can still do, as cells of a table, and the page that shows them."""

from __future__ import annotations

import contextlib
import copy
import platform
import re
import signal
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

import torch
from families import FAMILIES, Family
from features import FEATURES, NotApplicableError, quiet

DDP = "DDP (2 gloo)"
COLUMNS = (*FEATURES, DDP)
Cell = tuple[str, str]  # yes | no | neither (the original cannot) | absent (the library has no such thing), and why


def cell(family: Family, name: str, operated: torch.nn.Module, seconds: int = 0) -> Cell:
    """What one feature makes of one operated model, within so many seconds (0: however long it takes)."""
    failure = _failure(family, name, copy.deepcopy(operated), seconds)
    if failure is None or failure[0] == "absent":
        return failure or ("yes", "")
    original = _failure(family, name, family.create(), seconds)
    return failure if original is None else ("neither", original[1])


def _failure(family: Family, name: str, model: torch.nn.Module, seconds: int) -> Cell | None:
    try:
        with quiet(), _limited(seconds):
            FEATURES[name](family, model)
    except NotApplicableError as reason:
        return "absent", str(reason)
    except Exception as error:
        return "no", spoken(error)
    return None


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raises ``TimeoutError`` in what takes longer: Torch-Pruning's walk through some networks grows exponentially."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no result within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def spoken(error: Exception) -> str:
    """An error in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # the exporter colours its messages
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def page(found: dict[str, dict[str, Cell]]) -> str:
    """docs/compatibility.md as text."""
    counts = Counter(cells[name][0] for cells in found.values() for name in COLUMNS if name in cells)
    missing = len(found) * len(COLUMNS) - sum(counts.values())
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
        *([f"- an empty cell was not run yet: {missing:,}."] if missing else []),
        "",
        *table,
        "",
        "## What the columns mean",
        "",
        *(f"- **{name}**: {' '.join((FEATURES[name].__doc__ or '').split())}" for name in FEATURES),
        f"- **{DDP}**: two training steps under DistributedDataParallel on two processes; both end with equal weights.",
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
        texts = [_text(cells[column], notes) if column in cells else "" for column in COLUMNS]
        yield f"| {name} | {shown} | " + " | ".join(texts) + " |"


def _text(found: Cell, notes: dict[str, int]) -> str:
    verdict, reason = found
    if verdict in ("yes", "absent"):
        return {"yes": "yes", "absent": "–"}[verdict]
    text = reason if verdict == "no" else f"(original) {reason}"
    number = notes.setdefault(text, len(notes) + 1)
    return f"{'no' if verdict == 'no' else 'orig.'} [{number}]"
