"""What commands print, for people and as JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from stand_in import Engine, run

from sesurgery.cli import progress as cli_progress


def test_apply_prints_edits_totals_and_what_to_do_next(engine: Engine, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = run("apply", "resnet18", "--recipe", "standard", "-o", out, env={"COLUMNS": "200"})
    for words in ("layer4.0.se", "+33,000", "+10.00 %", "moved by 50 %", f"sesurgery revert {out} -o FOLDER"):
        assert words in result.stdout
    assert result.stderr == ""


def test_preview_prints_the_diff(engine: Engine) -> None:
    result = run("preview", "resnet18", "--recipe", "standard")
    assert "layer4.0 (BasicBlock)" in result.stdout
    assert "layer4.1: the same" in result.stdout
    assert re.search(r"^\+    y$", result.stdout, re.M)
    assert "a [true] reason" in result.stdout


@pytest.mark.parametrize("columns", ["80", "100"])
@pytest.mark.parametrize("words", ["preview resnet18 --recipe standard", "inspect resnet18", "recipes"])
def test_pages_fit_and_hold_no_colours(engine: Engine, words: str, columns: str) -> None:
    text = run(*words.split(), env={"COLUMNS": columns}).stdout
    assert text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize("command", ["apply", "preview"])
def test_json_of_an_operation(engine: Engine, command: str) -> None:
    result = run(command, "resnet18", "--recipe", "standard", "--json")
    data = json.loads(result.stdout)
    assert data["model"] == "resnet18"
    assert data["recipe"] == "standard"
    assert data["edits"][0] == {
        "action": "insert",
        "path": "layer4.0.se",
        "at": "before residual add",
        "stage": 4,
        "block": "layer4.0",
        "channels": 512,
        "module": "se",
        "route": "behind",
        "params": 33_000,
        "macs": 33_000,
        "notes": [],
    }
    assert data["skipped"][0] == {"path": "layer3.0", "reason": "a [true] reason", "at": ""}
    assert data["input_size"] == [3, 224, 224]
    assert data["before"] == {"params": 100, "macs": 1000, "flops": 2000, "activation_bytes": 500, "weight_bytes": 400}
    assert data["after"] == {"params": 110, "macs": 1100, "flops": 2200, "activation_bytes": 550, "weight_bytes": 440}


def test_json_of_an_inspection(engine: Engine) -> None:
    data = json.loads(run("inspect", "resnet18", "--json").stdout)
    assert data["stages"] == [
        {
            "index": 1,
            "reduction": 4.0,
            "height": 56,
            "width": 56,
            "blocks": ["layer1.0", "layer1.1"],
            "region": "backbone",
        }
    ]
    merge = {"path": "layer1.0", "op": "add", "kind": "identity", "stage": 1, "channels": 64, "region": "backbone"}
    assert data["merges"] == [merge]
    assert data["untraced"] == [{"path": "head", "class": "Head", "reason": "branches on data"}]


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with cli_progress.progress() as step:
        step("tracing", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with cli_progress.progress() as step:
        step("tracing [x]", 1, 2)
        step("saving", 0, 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert "saving" in err
