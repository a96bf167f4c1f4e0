"""SIGKILL a process that saves over an artefact, at random moments; then see what the folder holds.

    python benchmarks/kill_save.py --kills 60 --seed 0

Afterwards ``load`` must give the old or the new weights exactly. The figures go to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import torch
from reliability import write_section
from torch import nn

import sesurgery
from sesurgery.artifact import read
from sesurgery.artifact_weights import exchanges

MODEL = "timm:test_efficientnet"
# With and without weights that an operation took away, so that files come and go too.
RECIPES = ("swap-attention", "backbone-end")


def fill(model: nn.Module, value: float) -> None:
    """Make every number of an operated model ``value``, those that an operation took away too."""
    with torch.no_grad():
        for module in (model, *(old for _, old in exchanges(model) if old is not None)):
            for tensor in module.state_dict().values():
                tensor.fill_(value)


def child(folder: Path, number: int) -> None:
    """Save, over and over, models that are each filled with the number of the save; say when one begins and ends."""
    torch.set_num_threads(1)
    models = [sesurgery.apply(MODEL, recipe).model for recipe in RECIPES]
    while True:
        model = models[number % len(models)]
        fill(model, number)
        print(f"begin {number}", flush=True)
        sesurgery.save(model, folder)
        print(f"end {number}", flush=True)
        number += 1


def run(kills: int, seed: int) -> collections.Counter[str]:
    """What ``kills`` kills left: old, new, or wrong; and how many hit a save at work."""
    draw = random.Random(seed)
    found: collections.Counter[str] = collections.Counter()
    before: int | None = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "a"
        for kill in range(kills):
            begun, ended = _kill_one(folder, 1 + kill * 10_000, draw)
            before = before if begun == 1 + kill * 10_000 else begun - 1
            names, before = _judge(folder, before, begun, ended, build=kill % 5 == 0)
            found.update(names)
            if kill % 7 == 6:  # a first save is killed now and then as well
                shutil.rmtree(folder, ignore_errors=True)
                before = None
    return found


def _kill_one(folder: Path, start: int, draw: random.Random) -> tuple[int, int]:
    """Start a saver, kill it, and return the numbers of the last save that began and of the last that ended."""
    words = [sys.executable, __file__, "--child", str(folder), "--start", str(start)]
    saver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert saver.stdout is not None
    for _ in range(1 + 2 * draw.randrange(4)):
        line = saver.stdout.readline()
        assert line, "the saver failed"
    time.sleep(draw.random() * 0.02)
    saver.send_signal(signal.SIGKILL)
    begun, ended = _last(saver.stdout, *_numbers(line, start))
    saver.wait()
    saver.stdout.close()
    return begun, ended


def _numbers(line: str, start: int) -> tuple[int, int]:
    number = int(line.split()[1])
    return number, number if line.startswith("end") else number - 1


def _judge(folder: Path, before: int | None, begun: int, ended: int, build: bool) -> tuple[list[str], int | None]:
    """What the folder holds, and the number of the save that it is."""
    inside = begun > ended
    names = ["killed inside a save"] if inside else []
    if not folder.exists():
        return [*names, "nothing, and nothing was there" if inside and before is None else "wrong"], None
    names += ["leftovers"] if any(path.suffix in (".new", ".tmp") for path in folder.iterdir()) else []
    try:
        artifact = read(folder)
        states = [artifact.model, artifact.removed, sesurgery.load(folder).state_dict() if build else {}]
    except Exception as error:
        print(f"after save {begun}: {type(error).__name__}: {error}")
        return [*names, "wrong"], None
    values = {float(value) for state in states for tensor in state.values() for value in tensor.double().unique()}
    value = values.pop() if len(values) == 1 else None
    if value == begun:
        return [*names, "new"], begun
    if inside and value is not None and value == before:
        return [*names, "old"], before
    print(f"after save {begun}: {value}, {values}")
    return [*names, "wrong"], None


def _last(stream: IO[str], begun: int, ended: int) -> tuple[int, int]:
    """The numbers of the last save that began and of the last that ended."""
    for line in stream:
        word, _, number = line.strip().partition(" ")
        if number.isdigit():
            begun, ended = (int(number), ended) if word == "begin" else (begun, int(number))
    return begun, ended


def main() -> int:
    """Run, print, and write docs/reliability.md; 1 where a folder was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.start)
    found = run(options.kills, options.seed)
    rows = ["| after the kill | times |", "|---|--:|"]
    rows += [f"| {name} | {found[name]} |" for name in _WHAT]
    print("\n".join(rows))
    write_section("Kills", f"python benchmarks/kill_save.py --kills {options.kills} --seed {options.seed}", _TEXT, rows)
    return 1 if found["wrong"] else 0


_WHAT = ("killed inside a save", "leftovers", "old", "new", "nothing, and nothing was there", "wrong")
_TEXT = (
    "A process saves over an artefact again and again, weights that an operation took away coming and going, and gets SIGKILL "
    "at a random moment; now and then the first save is hit. `load` must then give the old or the new weights, every number "
    "of them."
)

if __name__ == "__main__":
    raise SystemExit(main())
