"""Bad options: one clear message on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Case, bad, tiny_with

CASES: dict[str, Case] = {
    "unknown module": Case(tiny_with("--module sse"), ('module "sse"', "did you mean")),
    "unknown option": Case(tiny_with("--set reductoin=8"), ('"reductoin"', 'did you mean "reduction"')),
    "option without a value": Case(tiny_with("--set reduction"), ("sets nothing", "KEY=VALUE")),
    "option of a wrong value": Case(tiny_with("--set reduction=-3"), ("reduction", "-3 is not")),
    "option of another kind": Case(tiny_with("--set bias=maybe"), ("bias", "neither true nor false")),
    "unknown gate": Case(tiny_with("--set gate=sigmod"), ("gate", 'did you mean "sigmoid"')),
    "unknown init": Case(tiny_with("--init papper"), ("init", "paper")),
    "init twice": Case(tiny_with("--init paper --set init=identity"), ("contradict", "give one")),
    "unknown command": Case("aply resnet18", ("aply",)),
    "unknown flag": Case(tiny_with("--stage 4"), ("--stage", "--help")),
    "stage that is none": Case(tiny_with("--stages four"), ("four", "stages")),
    "stage out of range": Case(tiny_with("--stages 9"), ("9", r"stages? 1|1 to|1-")),
    "stage zero": Case(tiny_with("--stages 0"), ("stage",)),
    "stages the wrong way round": Case(tiny_with("--stages 3-1"), ("3-1",)),
    "more last stages than there are": Case(tiny_with("--stages last9"), ("last9",)),
    "input size of words": Case(tiny_with("--input-size big"), ("--input-size", "C,H,W")),
    "input size that does not fit": Case(tiny_with("--input-size 5,64,64"), ("5",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad(CASES[name], tmp_path, monkeypatch, capsys)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 17
