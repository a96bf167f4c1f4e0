"""A saved folder is a model for every command, and operations stack."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from networks import TINY
from safetensors.torch import save_file
from stand_in import run

import sesurgery
from sesurgery.models import zoo

PAIR = """
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, image, depth):
        return self.right(depth) + self.left(image)


def example():
    return torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)


def fails():
    raise OSError("no disk")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kept") / "first"
    done = run("apply", TINY, "-r", "standard", "-s", "4", "-o", str(place))
    assert done.exit_code == 0, done.output
    assert "its weights are new and random" in done.stdout
    return place


@pytest.mark.parametrize("command", ["inspect {}", "places {}", "preview {} -r pre", "compare {} -r pre --stages 1"])
def test_a_folder_is_a_model(folder: Path, command: str) -> None:
    done = run(*command.format(folder).split(), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)


def test_operations_stack(folder: Path, tmp_path: Path) -> None:
    done = run("apply", str(folder), "-r", "standard", "-s", "3", "-m", "eca", "-o", str(tmp_path / "second"))
    assert done.exit_code == 0, done.output
    assert re.search(r"in stage 4, not in 3 +1 +layer4\.0\.se", done.stdout)
    model = sesurgery.load(tmp_path / "second")
    assert [[edit.path for edit in plan.edits] for plan in sesurgery.plans_of(model)] == [
        ["layer4.0.se"],
        ["layer3.0.se"],
    ]
    assert {plan.model for plan in sesurgery.plans_of(model)} == {TINY.partition(":")[2]}
    assert run("eject", str(tmp_path / "second"), "-o", str(tmp_path / "plain")).exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model-arg", "a=1"], "--model-arg: goes with a name; a folder knows how its model was made"),
        (["--pretrained"], "--pretrained: goes with a name"),
        (["--weights", "{folder}/model.safetensors"], "--weights: are not needed: the folder holds all of its own"),
    ],
)
def test_what_a_folder_need_not_be_told(folder: Path, words: list[str], says: str) -> None:
    done = run("apply", str(folder), "-r", "pre", *(word.format(folder=folder) for word in words))
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_model_of_several_inputs_is_shown_an_example(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PAIR)
    model = f"{tmp_path}/net.py:Pair"
    done = run("inspect", model, "--example", f"{tmp_path}/net.py:example")
    assert "input 3 x 16 x 16, 1 x 16 x 16" in done.stdout, done.output
    refused = run("inspect", model, "--example", f"{tmp_path}/net.py:fails")
    assert (refused.exit_code, "failed with OSError: no disk" in refused.stderr) == (2, True)
    assert "exclude each other" in run("inspect", model, "--example", "a.py:b", "--input-size", "8").stderr
    assert "names no function" in run("inspect", model, "--example", "somewhere").stderr


def test_a_delta_of_a_users_own_factory_is_merged_where_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PAIR)
    reference = f"{tmp_path / 'net.py'}:Pair"
    model = zoo.create(zoo.resolve(reference))
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    rule = {"rules": [{"insert": {"module": "eca"}, "at": "after conv"}]}
    example = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
    surgery = sesurgery.apply(reference, rule, example_input=example, weights=tmp_path / "base.safetensors")
    sesurgery.save(surgery, tmp_path / "delta", delta=True)
    places = {"-o": tmp_path / "whole", "--weights": tmp_path / "base.safetensors"}
    merge = ["merge", str(tmp_path / "delta"), *(str(word) for pair in places.items() for word in pair)]
    done = run(*merge)
    assert (done.exit_code, "allow it if you trust the folder (--trust-code)" in done.stderr) == (2, True)
    done = run(*merge, "--trust-code")
    assert done.exit_code == 0, done.stderr


def test_a_folder_that_holds_no_model_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    for name, problem in ((str(tmp_path), "holds no surgery.json"), (tmp_path.name, "is a folder without a surgery")):
        done = run("gates", name)
        assert (done.exit_code, problem in done.stderr) == (2, True)
