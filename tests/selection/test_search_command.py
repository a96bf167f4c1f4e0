"""``sesurgery search`` as one types it, on a model that takes two inputs."""

from __future__ import annotations

from pathlib import Path

import yaml
from stand_in import run

FILE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
    def forward(self, x):
        return x + self.conv(x).relu()

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(4, 8, 1), Block(), Block()
    def forward(self, image, mask):
        return self.two(self.one(self.stem(torch.cat([image, mask], 1)))).mean((2, 3))

def example():
    return torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)

def run(model, trial):
    return 1.0

def validate(model, trial):
    x = torch.ones(1, 8, 8, 8)
    return float(not torch.equal(model.two.se(x), x))  # a layer that is switched off changes nothing
"""


def search(folder: Path, *words: str):
    file = folder / "net.py"
    file.write_text(FILE)
    given = ["--train", f"{file}:run", "--seeds", "0", "--repeats", "1", "-o", str(folder / "out"), *words]
    return run("search", f"{file}:Pair", "--budget", "params=+50%", *given)


def test_the_chosen_sites_are_a_recipe(tmp_path: Path) -> None:
    done = search(tmp_path, "--example", f"{tmp_path}/net.py:example")
    assert done.exit_code == 0, done.output
    chosen = yaml.safe_load((tmp_path / "out" / "chosen.yaml").read_text())
    assert chosen["rules"][0]["where"]["path"] == ["two.se"]


def test_without_an_example_it_says_what_to_give(tmp_path: Path) -> None:
    done = search(tmp_path)
    assert done.exit_code == 2
    assert "--example" in done.stderr
