"""Does it pay? Small networks with attention and without, from new weights and from trained ones: docs/experiment.md.

    pip install mlxtend && python benchmarks/experiment.py run    # half an hour; goes on where it was cut off
    python benchmarks/experiment.py page                          # the page from benchmarks/experiment.jsonl

Five seeds each. Everything of one seed starts from the same weights, draws the same batches, and is compared in pairs.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compare_tables
import small_images
import torch
from torch import nn

import sesurgery
from sesurgery.comparison.evidence import evidence, interval
from sesurgery.comparison.rows import Evidence
from sesurgery.training import Phases, param_groups
from sesurgery.trials.training import seeded

RESULTS = Path(__file__).parent / "experiment.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "experiment.md"
SEARCHED = Path(__file__).parent / "experiment_search.json"
SEEDS = range(5)
EPOCHS, MORE = {"resnet": 5, "shufflenet": 8}, 2
OLD_RATE = small_images.RATE / 3
SIZE = "3,24,24"
KERNEL = {"name": "k5", "rules": [{"replace": {"kernel": 5}, "at": "conv", "where": {"kernel": 3, "blocks": "all"}}]}
EVERY = {"name": "every-conv", "rules": [{"insert": {"module": "se"}, "at": "after conv"}]}
NETWORKS: dict[str, Callable[..., nn.Module]] = {"resnet": small_images.resnet, "shufflenet": small_images.shufflenet}
WIDER = (8, 16, 26, 34)
RECIPES: dict[str, dict[str, tuple[Any, str | None]]] = {
    "resnet": {
        "standard": ("standard", None),
        "se-3x3": ("se-3x3", None),
        "eca": ("standard", "eca"),
        "k5": (KERNEL, None),
    },
    "shufflenet": {
        "standard": ("shufflenet-se", None),
        "se-3x3": ("se-3x3", None),
        "eca": ("shufflenet-se", "eca"),
        "k5": ("shufflenet-k5", None),
    },
}


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        start: ``new`` weights, or ``trained`` ones.
        variant: ``plain``, ``wider`` (plain, with more channels) or one of ``RECIPES``.
        init: how new layers start.
        freeze: whether the old weights and norms wait for an epoch.
    """

    network: str
    start: str
    variant: str
    init: str
    freeze: bool
    seed: int


# Trainings of docs/compare.md that are those of this experiment: the table there, and the candidate.
SHARED: dict[str, dict[str, tuple[str, str]]] = {
    "resnet": {
        "plain": ("placement", "unmodified"),
        "standard": ("placement", "standard"),
        "se-3x3": ("placement", "se-3x3"),
    },
    "shufflenet": {
        "plain": ("shufflenet", "unmodified"),
        "standard": ("shufflenet", "shufflenet-se"),
        "k5": ("shufflenet", "shufflenet-k5"),
    },
}


def cases() -> Iterator[Case]:
    """All trainings, seed by seed within each question, so that a run cut off has whole pairs."""
    for network, recipes in RECIPES.items():
        for seed in SEEDS:
            yield Case(network, "trained", "plain", "paper", False, seed)
            for init in ("paper", "near", "identity"):
                yield from (Case(network, "trained", "standard", init, freeze, seed) for freeze in (False, True))
        fresh = [*(["wider"] if network == "resnet" else []), *recipes]
        for seed in SEEDS:
            new = (variant for variant in fresh if variant not in SHARED[network])
            yield from (Case(network, "new", variant, "paper", False, seed) for variant in new)


def plain(case: Case, trained: dict[Any, Any]) -> nn.Module:
    """The unmodified network of a seed: with new weights, or trained (once)."""
    seeded(case.seed)
    if case.variant == "wider":
        return small_images.resnet(WIDER)
    model = NETWORKS[case.network]()
    if case.start == "trained":
        key = (case.network, case.seed)
        if key not in trained:
            seeded(case.seed)
            small_images.train(model, case.seed, EPOCHS[case.network])
            trained.clear()
            trained[key] = copy.deepcopy(model.state_dict())
        model.load_state_dict(trained[key])
    return model


def operated(case: Case, model: nn.Module) -> nn.Module:
    """The network of a case."""
    if case.variant not in RECIPES[case.network]:
        return model
    recipe, module = RECIPES[case.network][case.variant]
    options: dict[str, Any] = {"init": case.init} if case.variant != "k5" else {}
    return sesurgery.apply(model, recipe, module=module, inplace=True, input_size=SIZE, **options).model


def result(case: Case, trained: dict[Any, Any]) -> dict[str, Any]:
    """Train a case. Its accuracy at the start is that before any step."""
    start = time.process_time()
    model = operated(case, plain(case, trained))
    before = small_images.score(model)["accuracy"]
    seeded(case.seed)
    if case.start == "new":
        small_images.train(model, case.seed, EPOCHS[case.network])
    else:
        groups = param_groups(model, lr=OLD_RATE, new_lr=small_images.RATE, weight_decay=0.02)
        small_images.train(model, case.seed + 100, MORE, groups, Phases(frozen=1 if case.freeze else 0))
    params = sum(parameter.numel() for parameter in model.parameters())
    seconds = round(time.process_time() - start, 1)
    return {**asdict(case), "before": before, **small_images.score(model), "params": params, "seconds": seconds}


def run(words: Sequence[str] = ()) -> None:
    """Train what is not stored yet; of some networks and starts only where they are named."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    fields = Case.__dataclass_fields__
    stored = {Case(**{name: row[name] for name in fields}) for row in map(json.loads, lines)}
    trained: dict[Any, Any] = {}
    for case in cases():
        if case not in stored and all(word in (case.network, case.start) for word in words):
            line = json.dumps(result(case, trained))
            with RESULTS.open("a") as file:
                file.write(line + "\n")
    if not words and not SEARCHED.exists():
        search()


def search() -> None:
    """The best subset of twelve sites, ranked by one training, beside all sites and random subsets."""
    folder = Path(__file__).parent / "runs" / "search"
    train = f"{Path(small_images.__file__)}:run_apart"
    asked: dict[str, Any] = {"seeds": 5, "epochs": 5, "repeats": 3, "subsets": 3, "aim": "accuracy"}
    model = f"{Path(small_images.__file__)}:resnet"
    chosen = sesurgery.search(model, EVERY, budget="params=+5%", train=train, folder=folder, input_size=SIZE, **asked)
    assert chosen.check is not None
    from sesurgery.comparison.rows import as_data

    values = {path: asdict(value) for path, value in chosen.values.items()}
    data = {"recipe": chosen.recipe_text(), "values": values, "chosen": chosen.chosen, "check": as_data(chosen.check)}
    SEARCHED.write_text(json.dumps(data, indent=1) + "\n")


# --- the page


@dataclass(frozen=True)
class Line:
    """One row of the page: the accuracy of some trainings, and that of what they are compared with, by seed."""

    network: str
    variant: str
    params: int
    values: dict[int, float]
    plain: dict[int, float]
    before: float | None = None

    @property
    def told(self) -> Evidence | None:
        """The gain over the plain network."""
        values, plain = ({seed: {"accuracy": value} for seed, value in of.items()} for of in (self.values, self.plain))
        return evidence(values, plain, "accuracy", smaller=False)


def rows_of(start: str) -> list[dict[str, Any]]:
    """The trainings from new weights or from trained ones that are stored, those of docs/compare.md among them."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for network, shared in SHARED.items() if start == "new" else ():
        for variant, (table, name) in shared.items():
            measured = compare_tables.stored().get(table, {"rows": ()})["rows"]
            for row in (row for row in measured if row["name"] == name):
                about = {"network": network, "start": "new", "variant": variant, "params": row["params"]}
                about |= {"init": "paper", "freeze": False, "before": 0.0}
                rows += [{**about, "seed": int(seed), "accuracy": v} for seed, v in row["evidence"]["values"].items()]
    return [row for row in rows if row["start"] == start]


def lines_of(start: str) -> list[Line]:
    """The rows of a table, in the order of the experiment."""
    groups: dict[tuple[str, str, str, bool], list[dict[str, Any]]] = {}
    for row in rows_of(start):
        groups.setdefault((row["network"], row["variant"], row["init"], row["freeze"]), []).append(row)
    lines: list[Line] = []
    order = ["plain", "wider", "standard", "se-3x3", "eca", "k5"]
    for key in sorted(groups, key=lambda key: (key[0], order.index(key[1]), key[2], key[3])):
        network, variant, init, freeze = key
        rows, plain_rows = groups[key], groups.get((network, "plain", "paper", False), [])
        named = (
            variant if start == "new" or variant == "plain" else f"{variant}, init {init}" + ", frozen first" * freeze
        )
        values, base = ({row["seed"]: row["accuracy"] for row in some} for some in (rows, plain_rows))
        before = sum(row["before"] for row in rows) / len(rows)
        lines.append(Line(network, named, rows[0]["params"], values, base, None if start == "new" else before))
    return lines


def table(start: str) -> list[str]:
    """One table of the page."""
    more = start == "trained"
    head = ["network", "", "parameters", "seeds", *(["accuracy at insertion, %"] if more else []), "accuracy, %"]
    text = [f"| {' | '.join([*head, 'gain over plain [95 %]', ''])} |", "|---|---|" + "--:|" * (len(head) - 1) + "---|"]
    for line in lines_of(start):
        told = line.told
        assert told is not None
        cells = [line.network, line.variant, f"{line.params:,}", str(len(line.values))]
        cells += [f"{line.before:.2f}"] if line.before is not None else []
        cells += [f"{told.mean:.2f}"]
        if line.variant == "plain" or told.gain is None:
            cells += ["", ""]
        else:
            low, high = told.interval or (float("nan"),) * 2
            cells += [f"{told.gain:+.2f} [{low:+.2f}, {high:+.2f}]", told.verdict]
        text.append(f"| {' | '.join(cells)} |")
    return text if len(text) > 2 else ["Not run yet."]


def search_text() -> list[str]:
    """What the search chose, and what the check says of it."""
    if not SEARCHED.exists():
        return ["Not run yet."]
    data = json.loads(SEARCHED.read_text())
    rows = {row["name"]: row for row in data["check"]["rows"]}
    text = [
        "| candidate | parameters | MACs | accuracy, % | gain over unmodified [95 %] | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, row in rows.items():
        cells = [name, f"{row['params']:,}", f"{row['macs']:,}", f"{row['value']:.2f}"]
        text.append(f"| {' | '.join([*cells, compare_tables.gained(row), row['verdict']])} |")
    values = {name: row["evidence"]["values"] for name, row in rows.items()}
    randoms = [values[name] for name in values if name.startswith("random")]
    gains = [value - sum(one[seed] for one in randoms) / len(randoms) for seed, value in values["chosen"].items()]
    bounds = interval(gains)
    assert bounds is not None
    words = "beats" if bounds[0] > 0 else ("is worse than" if bounds[1] < 0 else "does not differ beyond noise from")
    mean = sum(gains) / len(gains)
    text += [
        "",
        f"The chosen {len(data['chosen'])} sites ({', '.join(f'`{path}`' for path in data['chosen'])}): their ",
    ]
    text[-1] += f"accuracy {words} the mean of {len(randoms)} random subsets of about the same cost: {mean:+.2f} "
    text[-1] += f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}] over {len(gains)} seeds."
    return text


HEAD = """# Does it pay?

Written by `python benchmarks/experiment.py page` from what `python benchmarks/experiment.py run` stored; do not edit.

An experiment of an hour, on networks and images of `benchmarks/small_images.py` ([compare.md](compare.md) describes
them). Everything of one seed starts from the same weights and sees the same batches; a gain is the mean of paired
differences in accuracy on 3,000 validation images, with a 95 % bootstrap interval. Small networks, few seeds, one kind
of images: what it says, it says of these. `wider` is the plain network with more channels, at least the parameters and
MACs of `standard`: what else the same cost buys. In ShuffleNetV2 `standard` stands for `shufflenet-se`, since it has no
residual sums.
"""


def page(file: Path = PAGE) -> None:
    """Write the page."""
    lines = [HEAD, "## Inserted before training", "", "`python benchmarks/experiment.py run`", "", *table("new"), ""]
    lines += ["## Inserted into a trained network", "", "`python benchmarks/experiment.py run`", ""]
    lines += [
        f"Trained, operated on, and trained for {MORE} epochs more, old weights at a third of the rate; `plain` had",
        "the same epochs more. *Frozen first*: old weights and norms wait for the first of them "
        "(`Phases(frozen=1)`, `freeze_norms`).",
        "",
        *table("trained"),
        "",
    ]
    lines += ["## Does a search beat chance?", "", "`python benchmarks/experiment.py search`", ""]
    lines += [
        "`sesurgery search` on the ResNet: an SE behind each of twelve convolutions, 5 % more parameters at most.",
        "The ranking sees every second validation digit, the check the others.",
        "",
        *search_text(),
        "",
    ]
    file.write_text("\n".join(lines).rstrip() + "\n")


def main(command: str, *words: str) -> None:
    """Run, search or write the page."""
    torch.set_num_threads(1)
    if command == "page":
        page(*map(Path, words))
    elif command == "search":
        search()
    else:
        run(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
