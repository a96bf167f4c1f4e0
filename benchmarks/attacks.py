"""What attacks on the engine gave, counted, with the reason of each that does not pass: part of docs/reliability.md.

    python benchmarks/attacks.py RESULTS

RESULTS is a folder of ``*.jsonl`` files, a row an attack: ``{"cat", "name", "outcome", "detail"}``. An attack is a
small network with a forward that is hard to edit. It is operated with gates at identity, in a process of its own, and
compared with the untouched original. The outcome is PASS; REFUSED, at planning; NOISY, the operated model raises where
the original runs; SILENT, another result without an error; CRASH, an exception that is not ours; SEGFAULT.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from reliability import write_section

OUTCOMES = {
    "PASS": "pass",
    "REFUSED": "refused",
    "NOISY": "fail loudly",
    "SILENT": "silently different",
    "CRASH": "crash",
    "SEGFAULT": "interpreter dies",
}
# What the engine that generated forwards gave on 2026-11-24; its attacks and its code are gone.
BEFORE = {
    "generated forwards, whole set": (674, 314, 92, 60, 168, 16, 9),
    "generated forwards, a sample of it": (426, 169, 59, 27, 150, 12, 9),
}
NO_COPY = "torch makes no deep copy of the model either: it has to be operated in place"
BROADCAST = "what is added is one number for each channel, which goes to all places: there is no map to gate"
REASONS = {
    "__slots__ attribute changed later": NO_COPY,
    "old weight_norm": "the attack makes a deep copy first, which torch refuses; `apply` operates on such a model",
    "torch.export.unflatten": NO_COPY,
    "isinstance(n, int) of an int argument": BROADCAST,
    "recurrence over x.unbind(1): longer sequence later": BROADCAST,
    "branch end changed in place after a read: standard": (
        "the branch is written into after it was read: a layer would give the reader and the writer two memories"
    ),
    "fractional_max_pool2d": "the original fails: it calls the function with a number where torch wants two",
    "generator": "the host returns a generator, which nobody has read when it returns: no sum has been seen",
    "set": "the host returns no tensor",
    "Sequential subclass indexed": "the host calls its children by their number: a new child would be one more of them",
    "scripted child": "a ScriptModule has no Python forward and takes no hooks",
    "x.dim() == 3: unbatched image later (se)": "the layer, timm's, takes images in a batch only",
    "host with __deepcopy__": "the host copies itself by building anew and loading a state_dict: no place for a layer",
    "host with __reduce__": "the host pickles itself by building anew and loading a state_dict: no place for a layer",
    "plan/inspect/apply leave model and RNG alone": (
        "plan and inspect do; `apply` draws numbers for its new layers, as building any layer does"
    ),
    "create_feature_extractor(resnet18)": (
        "a copy of torchvision's feature extractor comes back in train mode, with an operation or without"
    ),
    "revert after weight_norm on a 'behind' host": (
        "weight norm put on a layer that starts as zeros divides by zero, whoever made the layer"
    ),
    "torch.ao.quantization.fuse_modules": "torch has no fuser for a convolution, a norm and ReLU6",
}
ABOUT = (
    "An attack is a small network whose forward does more than tensor operations. It is operated with gates at "
    "identity and compared with the untouched original: outputs at several sizes, both modes with equal seeds, "
    "gradients, buffers, attributes set later, copies, third-party tools. Each runs in a process of its own. The first "
    "two lines were counted on the engine before this one, where rows that a killed process left behind were counted "
    "twice. What the attacks taught is held by "
    "`pytest -q tests/rewriting/test_hostile_forwards.py tests/operating tests/recording`."
)


def rows_in(folder: Path) -> list[dict[str, str]]:
    """All rows of a folder of results, each attack once."""
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return list({(row["cat"], row["name"]): row for row in rows}.values())


def section(rows: list[dict[str, str]]) -> list[str]:
    """The table and the list of what does not pass."""
    counts = Counter(row["outcome"] for row in rows)
    now = (len(rows), *(counts[outcome] for outcome in OUTCOMES))
    lines = [f"| engine | attacks | {' | '.join(OUTCOMES.values())} |", "|---|" + "--:|" * (len(OUTCOMES) + 1)]
    for name, figures in (BEFORE | {"the author's code, what of the sample writes a row": now}).items():
        lines.append(f"| {name} | {' | '.join(map(str, figures))} |")
    lines += ["", "What does not pass, and why:", ""]
    order = [*OUTCOMES][1:]
    left = [row for row in rows if row["outcome"] != "PASS"]
    for row in sorted(left, key=lambda row: (order.index(row["outcome"]), row["name"])):
        reason = REASONS.get(row["name"], f"**a fault**: {row['detail'][:200]}")
        lines.append(f"- {OUTCOMES[row['outcome']]}: `{row['name']}`: {reason}.")
    return [
        *lines,
        "",
        "Known besides: a forward that computes with the number of its own parameters sees the new ones.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a folder of *.jsonl files, a row an attack")
    rows = rows_in(parser.parse_args().results)
    if not rows:
        parser.error("no rows in that folder")
    write_section("Attacks", "python benchmarks/attacks.py RESULTS", ABOUT, section(rows))
    print(dict(Counter(row["outcome"] for row in rows)))


if __name__ == "__main__":
    main()
