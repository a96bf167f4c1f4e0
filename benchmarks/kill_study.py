"""SIGKILL workers of a study at random moments; every job must end exactly once.

    python benchmarks/kill_study.py --kills 50 --seed 0
    python benchmarks/kill_study.py --kills 50 --server   # on a PostgreSQL server of its own

The figures go to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from reliability import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from study_kills import run


def main() -> int:
    """Run, print, and write docs/reliability.md; 1 where a job was lost, run twice or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.server:
            from postgres import server

            with server(options.kills) as database:
                counts = run(options.kills, options.seed, Path(scratch) / "a", database)
        else:
            counts = run(options.kills, options.seed, Path(scratch) / "a")
    rows = ["| four workers of one study | times |", "|---|--:|"]
    rows += [f"| {name.replace('_', ' ')} | {counts[name]} |" for name in _WHAT]
    print("\n".join(rows))
    command = f"python benchmarks/kill_study.py --kills {options.kills} --seed {options.seed}"
    title = "Kills of workers, " + ("PostgreSQL" if options.server else "journal in a folder")
    write_section(title, command + (" --server" if options.server else ""), _TEXT, rows)
    return 1 if counts["lost"] or counts["run twice"] or counts["wrong"] else 0


_WHAT = ("kills", "jobs", "failed_with_their_worker", "ended once", "lost", "run twice", "wrong")
_TEXT = (
    "Four workers share studies of forty jobs. One of them gets SIGKILL again and again and is replaced at once. "
    "Afterwards every job must have ended once, with the result that only it can have."
)

if __name__ == "__main__":
    raise SystemExit(main())
