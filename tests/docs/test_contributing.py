"""CONTRIBUTING can be followed: its four additions work, to the letter, outside the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import read
from places import ROOT


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(title: str) -> list[str]:
    return re.findall(r"```\w+\n(.*?)```", sections()[title], flags=re.DOTALL)


# The four additions of CONTRIBUTING.md, each with the file that it writes.
ADDITIONS = {
    "An attention layer": "scale.py",
    "A placement": "concat_inputs.py",
    "An edit kind": "dropout.py",
    "A recipe": "head-start.yaml",
}


@pytest.mark.parametrize("title", ADDITIONS)
def test_adding_takes_ten_lines_at_most(title: str) -> None:
    assert f"`{ADDITIONS[title]}`" in sections()[title]
    file, test, command = blocks(title)
    assert len([line for line in file.splitlines() if line.strip()]) <= 10
    assert len([line for line in test.splitlines() if line.strip()]) <= 10
    assert "sesurgery " in command


CHECKS = """
import copy, json, torch
from torch import nn
import sesurgery
import concat_inputs, dropout, scale

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))

class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 8, 1)
    def forward(self, x):
        return self.join(torch.cat([self.left(x), self.right(x)], 1))

torch.set_num_threads(1)
torch.manual_seed(0)
chain = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Block()).eval()
forks = nn.Sequential(nn.Conv2d(3, 8, 1), Fork(), Fork()).eval()
x = torch.randn(2, 3, 8, 8)

def tried(model, recipe, **options):
    surgery = sesurgery.apply(model, recipe, example_input=x, **options)
    paths = [edit.path for edit in surgery.plan.edits]
    copy.deepcopy(surgery.model).train()(x).sum().backward()
    grown = surgery.after.params - surgery.before.params
    same = torch.equal(surgery.model.eval()(x), model(x))
    back = sesurgery.revert(surgery.model)
    undone = torch.equal(back.eval()(x), model(x)) and back.state_dict().keys() == model.state_dict().keys()
    return dict(paths=paths, grown=grown, same=same, undone=undone)

found = dict(
    node=tried(chain, "standard", module="scale", start=0.5),
    identity=tried(chain, "standard", module="scale", init="identity"),
    placement=tried(forks, dict(rules=[dict(insert=dict(module="se"), at="on every concat input")])),
    edit=tried(chain, dict(rules=[dict(dropout=dict(p=0.5), at="activation")])),
    recipe=tried(chain, "head-start.yaml"),
)
try:
    sesurgery.load_recipe(dict(rules=[dict(dropout=dict(q=1), at="conv")]))
except sesurgery.RecipeError as error:
    found["refused"] = list(error.problems)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def additions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the package with the files and the tests of CONTRIBUTING.md, to the letter."""
    folder = tmp_path_factory.mktemp("mine")
    for title, name in ADDITIONS.items():
        file, test, _ = blocks(title)
        (folder / name).write_text(file, encoding="utf-8")
        (folder / f"test_{name.partition('.')[0].replace('-', '_')}.py").write_text(test, encoding="utf-8")
    return folder


def done_in(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def followed(additions: Path) -> dict[str, Any]:
    """What comes of the additions on small networks."""
    (additions / "check.py").write_text(CHECKS, encoding="utf-8")
    return json.loads(done_in(additions, sys.executable, "-W", "error", "check.py"))


def test_the_tests_of_the_additions_pass(additions: Path) -> None:
    assert "4 passed" in done_in(additions, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("An attention layer", ["layer1.0.se", "insert scale before residual add"]),
        ("A placement", ["features.3.eca_input", "insert eca on every concat input"]),
        ("An edit kind", ["dropout.yaml: a recipe of 1 rule, no mistakes", "Dropout(p=0.2, inplace=False)"]),
        ("A recipe", ["head-start.yaml: a recipe of 1 rule, no mistakes", "layer4.0.se"]),
    ],
)
def test_the_additions_work_on_the_command_line(additions: Path, title: str, words: list[str]) -> None:
    command = f'set -e; sesurgery() {{ "{sys.executable}" -m sesurgery "$@"; }}\n{blocks(title)[2]}'
    shown = done_in(additions, "bash", "-c", command)
    assert [word for word in words if word not in shown] == []


def test_a_node_of_ones_own(followed: dict[str, Any]) -> None:
    assert followed["node"] == {"paths": ["1.scale", "2.scale"], "grown": 16, "same": False, "undone": True}
    assert followed["identity"]["same"]


def test_a_placement_of_ones_own(followed: dict[str, Any]) -> None:
    assert len(followed["placement"]["paths"]) == 4
    assert followed["placement"]["undone"]
    assert not followed["placement"]["same"]


def test_an_edit_kind_of_ones_own(followed: dict[str, Any]) -> None:
    assert followed["edit"] == {"paths": ["1.act", "2.act"], "grown": 0, "same": True, "undone": True}
    assert any("rules[0].dropout.q: unknown key" in problem for problem in followed["refused"])


def test_a_recipe_of_ones_own(followed: dict[str, Any], make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert followed["recipe"]["paths"] == ["1.eca"]
    assert followed["recipe"]["undone"]
    page = sys.modules["recipe_page"]
    monkeypatch.setattr(page, "EXAMPLES", page.EXAMPLES[1:])
    with pytest.raises(LookupError, match="standard"):
        page.page()
