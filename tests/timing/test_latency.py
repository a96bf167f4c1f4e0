"""Latency: pairs of both models in turns, what they say, and what cannot be measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from networks import Block, Net, X
from typer.testing import CliRunner

import sesurgery
from sesurgery.cli.app import app
from sesurgery.timing.result import Latency


def measured(*pairs: tuple[float, float]) -> Latency:
    return Latency("a processor", 1, 2, ((3, 8, 8),), pairs)


def test_what_is_slower_in_every_pair_is_slower_and_what_changes_places_is_noise() -> None:
    slower = measured(*((0.010 + step / 1e3, 0.011 + step / 1e3) for step in range(8)))
    assert slower.ratio > 1.05
    assert slower.interval[0] > 1
    assert not slower.within_noise
    noise = measured(*((0.010, 0.012), (0.012, 0.010)) * 4)
    assert noise.within_noise
    assert "within noise" in str(noise)
    assert "within noise" not in str(slower)


def test_the_interval_is_the_sign_tests() -> None:
    ratios = [(1.0, 1.0 + step / 100) for step in range(15)]
    assert measured(*ratios).interval == (1.03, 1.11)  # the 4th of 15 and the 4th last hold the median with 96.5 %
    assert measured(*ratios[:7]).interval == (1.0, 1.06)


def test_both_models_are_measured_and_stay_as_they_are() -> None:
    surgery = sesurgery.apply(Net(Block(8), Block(8)), "standard", example_input=X)
    surgery.model.train()
    keys = list(surgery.model.state_dict())
    latency = sesurgery.latency(surgery, batch=2, threads=1, seconds=0)
    assert len(latency.pairs) == 7
    assert all(old > 0 and new > 0 for old, new in latency.pairs)
    assert (latency.batch, latency.threads, latency.inputs) == (2, 1, (tuple(X.shape[1:]),))
    assert surgery.model.training
    assert list(surgery.model.state_dict()) == keys


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        (lambda: Net(Block(8)), {}, "nothing to undo"),
        (lambda: sesurgery.apply("timm:test_resnet", "standard", device="meta"), {}, "no weights"),
        (lambda: Net(Block(8)), {"device": "no such"}, "device no such"),
    ],
)
def test_what_cannot_be_measured_is_said(model: Any, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(sesurgery.InputError, match=says):
        sesurgery.latency(model(), **asked)


@pytest.mark.parametrize("words", [["--batch", "2"], ["--threads", "1"], ["--latency", "--device", "tpu"]])
def test_options_of_the_command_that_say_nothing_are_refused(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["apply", "resnet18", "--recipe", "standard", *words])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_the_command_measures_and_says_it_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def latency(surgery: Any, **settings: Any) -> Latency:
        given.update(settings)
        assert not any(parameter.is_meta for parameter in surgery.model.parameters())
        return measured(*((0.010, 0.011),) * 7)

    monkeypatch.setattr(sesurgery, "latency", latency, raising=False)
    words = "apply timm:test_resnet --recipe standard --latency --batch 4 --threads 1 --json"
    result = CliRunner().invoke(app, words.split())
    data = json.loads(result.stdout)["latency"]
    assert given == {"batch": 4, "threads": 1}
    assert data["ratio"] == pytest.approx(1.1)
    assert (data["before"], data["after"], data["within_noise"]) == (0.010, 0.011, False)
    assert torch.is_grad_enabled()
