"""Trainings: the same seeds and start for all, results kept, and every bad training one clear message."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from networks import Residual
from torch import nn

import sesurgery
from sesurgery.comparison import costing


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.one, self.two = Residual(8), Residual(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))


SEEN: list[tuple[int, float, float, dict[str, object]]] = []


def run(model: nn.Module, trial: object) -> dict[str, float]:
    stem = float(model.stem.weight.detach().sum())
    SEEN.append((trial.seed, stem, float(torch.rand(())), dict(trial.params)))
    return {"score": sum(p.numel() for p in model.parameters()) + stem, "other": 1.0}


def compared(folder: Path, train: object = run, **asked: object):
    asked = {"recipes": "standard,pre", "seeds": 2, "aim": "score", "input_size": "3,16,16", **asked}
    return sesurgery.compare(Net(), asked.pop("recipes"), train=train, folder=folder, **asked)


def test_all_candidates_start_alike_and_draw_alike(tmp_path: Path) -> None:
    SEEN.clear()
    rows = compared(tmp_path)
    assert len(SEEN) == 6
    assert {params.get("recipe") for *_, params in SEEN} == {None, "standard", "pre"}
    for seed in (0, 1):
        mine = [(stem, drawn) for number, stem, drawn, _ in SEEN if number == seed]
        assert len(set(mine)) == 1, "the same weights and the same draws for every candidate of one seed"
    assert rows.aim == "score"
    assert rows.control.evidence is not None
    assert rows.control.evidence.gain is None
    for row in rows:
        more = row.cost.params - rows.control.cost.params
        assert row.evidence.gain == pytest.approx(more)
        assert row.evidence.others == {"other": 1.0}
        assert row.evidence.verdict == "better"
    assert rows.best() == rows[0]


def test_what_ended_is_not_run_again(tmp_path: Path) -> None:
    SEEN.clear()
    first = compared(tmp_path)
    assert compared(tmp_path) == first
    assert len(SEEN) == 6
    compared(tmp_path, seeds=3)
    assert [seed for seed, *_ in SEEN[6:]] == [2, 2, 2]


def test_a_budget_leaves_trainings_out(tmp_path: Path) -> None:
    SEEN.clear()
    rows = compared(tmp_path, recipes="standard", modules="se,eca", budget="params=+2%")
    assert [row.evidence is None for row in rows] == [bool(row.over) for row in rows]
    with pytest.raises(sesurgery.NothingMatchedError, match="the nearest is standard"):
        compared(tmp_path / "b", budget="params=-5%")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (float("nan"), "gives nan"),
        ("good", "gives a str"),
        (None, "gives nothing"),
        ({"loss": 1.0}, 'no "score" but loss'),
        (ZeroDivisionError("oh"), "oh"),
    ],
)
def test_a_bad_training_is_one_message_and_the_rest_is_kept(tmp_path: Path, result: object, words: str) -> None:
    count = 0

    def bad(model: nn.Module, trial: object) -> object:
        nonlocal count
        count += 1
        if count < 3:
            return {"score": 1.0}
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(sesurgery.InputError, match=words) as error:
        compared(tmp_path, bad)
    assert "seed" in str(error.value)
    count = -100  # mended
    compared(tmp_path, bad)
    assert count == -100 + 4, "two of six had ended"


def test_what_ended_before_ctrl_c_is_kept(tmp_path: Path) -> None:
    SEEN.clear()

    def stopped(model: nn.Module, trial: object) -> dict[str, float]:
        if len(SEEN) == 4:
            raise KeyboardInterrupt
        return run(model, trial)

    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, stopped)
    SEEN.append((0, 0.0, 0.0, {}))
    compared(tmp_path, stopped)
    assert len(SEEN) == 7, "four, the mark of this test, and the two that were left"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(sesurgery.InputError, match="no folder can be made there"):
        compared(tmp_path / "file")


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    compared(tmp_path)
    with pytest.raises(sesurgery.InputError, match="something else"):
        compared(tmp_path, recipes="post")


def test_a_storage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for url in ("postgresql+psycopg://nobody@127.0.0.1:1/none", "redis://x", "nonsense"):
        with pytest.raises(sesurgery.InputError, match="storage"):
            compared(tmp_path, storage=url)
    with pytest.raises(sesurgery.InputError, match="folder"):
        sesurgery.compare(Net(), "standard", train=run, input_size="3,16,16")


def test_pruned_trainings_are_counted(tmp_path: Path) -> None:
    def slow(model: nn.Module, trial: object) -> float:
        hopeless = bool(trial.params) and trial.seed > 0
        for step in range(6):
            trial.report(step, -1.0 if hopeless else 1.0)
        return 1.0

    rows = compared(tmp_path, slow, seeds=6, pruner="median", aim="value")
    assert any("stopped early" in row.evidence.verdict for row in rows)
    assert len(rows.control.evidence.values) == 6


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sampler_trains_as_many_candidates_as_it_may(tmp_path: Path, sampler: str) -> None:
    SEEN.clear()
    asked = {"recipes": "standard,pre,post", "modules": "se,eca", "sampler": sampler, "trials": 3}
    rows = compared(tmp_path, **asked)
    assert len(rows) == 6
    judged = [row for row in rows if row.evidence is not None]
    assert [len(row.evidence.values) for row in (rows.control, *judged)] == [2, 2, 2, 2]
    assert len(SEEN) == 8
    assert rows.best() in judged
    assert compared(tmp_path, **asked) == rows
    compared(tmp_path, **{**asked, "trials": 9})  # all of six
    assert len(SEEN) == 14


def test_a_sampler_goes_where_values_are_good(tmp_path: Path) -> None:
    """Of 48 candidates those with much reduction are good; a sampler that saw 24 has trained more of them."""
    options = {"reduction": [1, 2, 4, 8], "rd_divisor": [1], "act": ["relu", "silu", "gelu"]}
    asked = {"recipes": "standard,pre,post,identity", "options": options, "seeds": 1, "aim": "value"}

    def good(model: nn.Module, trial: object) -> float:
        return float(trial.params.get("reduction") == 8)

    rows = compared(tmp_path, good, sampler="tpe", trials=24, **asked)
    values = [row.evidence.mean for row in rows if row.evidence is not None]
    assert len(values) == 24
    assert sum(values) >= 9, "of 12; chance would find 6"


def test_another_model_may_stand_beside_the_candidates(tmp_path: Path, write_net) -> None:
    SEEN.clear()
    reference = f"{write_net()}:net"
    rows = sesurgery.compare(
        reference, "standard", against=f"{reference},resnet18", input_size="3,32,32", budget="params=+200%"
    )
    other = next(row for row in rows if row.name == "resnet18")
    assert other.cost == sesurgery.inspect("resnet18", input_size="3,32,32").cost
    assert not other.over
    (tmp_path / "train.py").write_text(
        "def run(model, trial):\n    return sum(p.numel() for p in model.parameters())\n"
    )
    asked = {"against": "resnet18", "train": f"{tmp_path}/train.py:run", "folder": tmp_path / "out", "seeds": 1}
    rows = sesurgery.compare(reference, "standard", input_size="3,32,32", **asked)
    other = next(row for row in rows if row.name == "resnet18")
    assert other.evidence.mean == other.cost.params
    assert rows.best().recipe == "standard", "what is no recipe cannot win"


def test_latency_is_measured_and_may_be_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "_SECONDS", 0.01)
    rows = sesurgery.compare(Net(), "standard,pre", input_size="3,16,16", budget="latency=-90%,params=+50%")
    assert rows.control.latency > 0
    assert all(row.latency > 0 and row.over["latency"] > 0 for row in rows)
    assert "latency" in str(rows)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sampler": "random"}, 'unknown sampler "random"'),
        ({"sampler": "tpe"}, "how many candidates"),
        ({"trials": 3}, "a grid trains all"),
        ({"sampler": "nsga2", "trials": 3, "pruner": "median"}, "single aim"),
        ({"pruner": "best"}, 'unknown pruner "best"'),
        ({"against": "resnet999"}, "resnet999"),
    ],
)
def test_what_cannot_be_asked_for_is_said(tmp_path: Path, asked: dict[str, object], words: str) -> None:
    with pytest.raises(sesurgery.InputError) as error:
        compared(tmp_path, **asked)
    assert words in str(error.value)


TRAIN = """
import time

def run(model, trial):
    with open({log!r}, "a") as log:
        log.write(f"{{trial.seed}} {{trial.params.get('recipe')}}\\n")
    trial.report(0, 0.5)
    time.sleep(0.2)
    return float(sum(p.numel() for p in model.parameters()))
"""


def test_the_command_goes_on_where_it_was_cut_off(tmp_path: Path, write_net) -> None:
    write_net()
    log = tmp_path / "log"
    (tmp_path / "train.py").write_text(TRAIN.format(log=str(log)))
    asked = ["compare", "net.py:net", "-r", "standard,pre", "--train", "train.py:run", "--seeds", "3", "-o", "out"]
    command = [sys.executable, "-m", "sesurgery", *asked]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = log.read_text().splitlines()
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    after = log.read_text().splitlines()
    assert set(after) == {f"{seed} {recipe}" for seed in range(3) for recipe in (None, "standard", "pre")}
    assert len(after) in (9, 10), "all that had ended is kept: only what was under way is run again"
    assert len(before) < len(after)
    rows = json.loads(done.stdout)["rows"]
    assert [row["seeds"] for row in rows] == [3, 3, 3]
    best = sesurgery.load_recipe(tmp_path / "out" / "best.yaml")
    assert best.rules
