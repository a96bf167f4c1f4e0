"""Bad models: one clear message on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Case, bad, tiny_with

FAILING = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        raise RuntimeError("the cable is loose")


def net():
    return Net()


def explodes():
    raise OSError("no disk")


def number():
    return 7


ready = 3
"""


PLAIN = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"


CASES: dict[str, Case] = {
    "unknown model": Case("apply resnet5O --recipe standard", ('model "resnet5O"', "did you mean", "resnet50")),
    "unknown model of a library": Case("apply timm:resnext9 --recipe standard", ("timm model", "did you mean")),
    "no model at all": Case("inspect !!!", ('"!!!"', "write resnet50")),
    "empty model name": Case("inspect ''", ("empty name", "write resnet50")),
    "model by hub": Case("inspect hf-hub:timm/resnet18", ("would fetch", "--weights FILE")),
    "model file that is not there": Case("inspect {d}/net.py:net", (r"net\.py", "no such file", "check the path")),
    "model file without factory": Case("inspect {d}/net.py", ("no factory", r"net\.py:FACTORY")),
    "unknown factory": Case(
        "inspect {d}/net.py:nett", (r"net\.py", 'no "nett"', 'did you mean "net"'), files=(("net.py", FAILING),)
    ),
    "factory that fails": Case(
        "inspect {d}/net.py:explodes", (r"net\.py:explodes", "no disk", r"line \d+"), files=(("net.py", FAILING),)
    ),
    "factory of something else": Case(
        "inspect {d}/net.py:number", (r"net\.py:number", "int, not an nn.Module"), files=(("net.py", FAILING),)
    ),
    "factory that is none": Case("inspect {d}/net.py:ready", ("not callable",), files=(("net.py", FAILING),)),
    "file that is no Python": Case("inspect {d}/net.py:net", (r"net\.py", "SyntaxError"), files=(("net.py", "def :"),)),
    "module that is not there": Case("inspect no_such_package.nets:net", ("no module named", "install it")),
    "model that fails in forward": Case(
        "apply {d}/net.py:net --recipe standard", ("the cable is loose",), files=(("net.py", FAILING),)
    ),
    "unknown model argument": Case(tiny_with("--model-arg num_clases=3"), ('"num_clases"', "num_classes")),
    "model argument of a wrong value": Case(
        tiny_with("--model-arg num_classes=many"), ("test_resnet", "num_classes=many")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad(CASES[name], tmp_path, monkeypatch, capsys)
