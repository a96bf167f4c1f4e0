"""Seeded fuzz over recipes, folders, all that reads them, and others' files: each ends in a result or a clear error.

    python benchmarks/fuzz.py --recipes 3000 --artifacts 500 --seed 0

A crash is any exception that is not a ``SurgeryError``; a leak is a file that appears outside the folder under test, or
code that ran. The figures go to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from reliability import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from fuzzing import fuzz_artifacts, fuzz_operations, fuzz_readers, fuzz_recipes


def main() -> int:
    """Run, print, and write docs/reliability.md; 1 where anything crashed or leaked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=3000)
    parser.add_argument("--artifacts", type=int, default=500)
    parser.add_argument("--count", type=int, help="inputs of each kind, instead of the two above")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipes, artifacts = (options.count or options.recipes), (options.count or options.artifacts)
    torch.set_num_threads(1)
    before = set(Path.cwd().iterdir())
    tallies = {
        "recipe text": fuzz_recipes(recipes, options.seed),
        "artefact folders, loaded, reverted and saved over": fuzz_artifacts(artifacts, options.seed),
        "artefact folders, merged, measured and ejected": fuzz_readers(artifacts, options.seed),
        "operations in other libraries' files": fuzz_operations(artifacts, options.seed),
    }
    strangers = sorted(path.name for path in set(Path.cwd().iterdir()) - before)
    rows = [
        "| inputs | tried | accepted | refused with a message | crashes | files outside | slowest |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, tally in tallies.items():
        refused = sum(tally.refused.values())
        rows.append(
            f"| {name} | {tally.inputs:,} | {tally.accepted:,} | {refused:,} | {len(tally.crashes)} "
            f"| {len(tally.leaks) + len(strangers)} | {tally.slowest:.1f} s |"
        )
        for line in (*tally.crashes[:20], *tally.leaks[:20]):
            print(line)
    print("\n".join(rows), *strangers, sep="\n")
    write_section(
        "Hostile input",
        f"python benchmarks/fuzz.py --recipes {recipes} --artifacts {artifacts} --seed {options.seed}",
        _TEXT,
        rows,
    )
    return 1 if strangers or any(tally.crashes or tally.leaks for tally in tallies.values()) else 0


_TEXT = (
    "Shipped recipes and saved artefacts, every other one a delta, some with a damaged base, mutated at random: "
    "truncated, bit-flipped, wrong shapes, path traversal and code in names, huge numbers, duplicate keys, YAML tags "
    "and aliases, safetensors headers that lie under a digest that fits. A crash is any exception that is not an error "
    "of ours, or an artefact that gives other weights than were saved (forged headers with a fitting digest aside). "
    "Accepted: still valid after the change, or an artefact saved anew over the damaged one."
)

if __name__ == "__main__":
    raise SystemExit(main())
