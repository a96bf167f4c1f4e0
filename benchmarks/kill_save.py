"""SIGKILL a process that saves over an artefact, at random moments; then see what the folder holds.

    python benchmarks/kill_save.py --kills 60 --seed 0

Afterwards ``load`` must give the old or the new weights exactly. The figures go to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from reliability import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from kills import run


def main() -> int:
    """Run, print, and write docs/reliability.md; 1 where a folder was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = run(options.kills, options.seed)
    rows = ["| after the kill | times |", "|---|--:|"]
    rows += [f"| {name} | {found[name]} |" for name in _WHAT]
    print("\n".join(rows))
    write_section("Kills", f"python benchmarks/kill_save.py --kills {options.kills} --seed {options.seed}", _TEXT, rows)
    return 1 if found["wrong"] else 0


_WHAT = ("killed inside a save", "of a delta", "leftovers", "old", "new", "nothing, and nothing was there", "wrong")
_TEXT = (
    "A process saves over an artefact again and again, weights that an operation took away coming and going, every "
    "other time as a delta, and gets SIGKILL at a random moment; now and then the first save is hit. `load` must then "
    "give the old or the new weights, every number of them."
)

if __name__ == "__main__":
    raise SystemExit(main())
