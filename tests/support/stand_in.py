"""What stands in for the engine where the command line is tested: a plan, an inspection, and calls that are noted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import sesurgery
from sesurgery.cli.app import app
from sesurgery.plans import (
    AppendBehind,
    AttentionLayer,
    Cost,
    Diff,
    Edit,
    Inspection,
    MergeInfo,
    Plan,
    Skip,
    Stage,
    Untraced,
)

EDIT = Edit(
    action="insert",
    path="layer4.0.se",
    at="before residual add",
    host="layer4.0",
    stage=4,
    block="layer4.0",
    channels=512,
    module="se",
    change=AppendBehind(AttentionLayer("se", {}, (1, 512, 7, 7), 1)),
    params=33_000,
    macs=33_000,
)
PLAN = Plan(
    "resnet18",
    {"name": "standard"},
    (EDIT,),
    (Skip("layer3.0", "a [true] reason"),),
    (
        Diff(
            ("layer4.0", "layer4.1"),
            "BasicBlock",
            "def forward(self, x):\n    return x",
            "def forward(self, x):\n    y",
        ),
    ),
    4,
    Cost(100, 1000, 2000, activation_bytes=500, weight_bytes=400),
    Cost(110, 1100, 2200, activation_bytes=550, weight_bytes=440),
    ((3, 224, 224),),
)
INSPECTION = Inspection(
    "resnet18",
    (Stage(1, 4.0, 56, 56, ("layer1.0", "layer1.1")),),
    (MergeInfo("layer1.0", "add", "identity", 1, 64),),
    (Untraced("head", "Head", "branches on data"),),
    10,
)


def run(*words: str, **kwargs: Any) -> Result:
    return CliRunner().invoke(app, list(words), **kwargs)


class Engine:
    """Stands in for the engine: remembers how it was called, returns what it was given, or raises it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, dict[str, Any]] = {}
        surgery = SimpleNamespace(
            plan=PLAN, before=PLAN.before, after=PLAN.after, notes=("random weights",), drift=0.5, model=None
        )
        answers = {"plan": PLAN, "apply": surgery, "inspect": INSPECTION, "save": None, "revert_folder": None}
        for name, answer in answers.items():
            monkeypatch.setitem(sesurgery.__dict__, name, self.function(name, answer))

    def function(self, name: str, answer: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = {"args": args, **kwargs}
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "apply") -> None:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setitem(sesurgery.__dict__, name, call)
