"""Errors: one message, on one line where it can be, and the exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stand_in import Engine, fails, run

from sesurgery.errors import NothingMatchedError, UnknownNameError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("apply resnet18 --recipe standrd", "standard"),
        ("apply resnet18 --recipe standard --stages four", "stages"),
        ("apply resnet18 --recipe standard --stages 0", "stages count from 1"),
        ("apply resnet18 --recipe standard --set reduction", "--set"),
        ("apply resnet18 --recipe standard --set stages=4", "use --stages"),
        ("apply resnet18 --recipe standard --set init=paper --init identity", "contradict"),
        ("apply resnet18 --recipe standard --model-arg x", "--model-arg"),
        ("inspect resnet18 --model-arg pretrained=true", "use --pretrained"),
        ("apply resnet18 --recipe standard --module sse", 'unknown module "sse"; did you mean'),
        ("apply resnet18 --recipe standard --set reducton=8", 'did you mean "reduction"'),
        ("apply resnet18 --recipe standard --init idenity", "identity"),
        ("apply resnet18 --recipe standard --input-size 3,0,224", "--input-size"),
        ("apply resnet18 --recipe standard --input-size ,", "--input-size"),
        ("apply resnet18 --recipe standard --weights nowhere/w.pth", "nowhere"),
        ("apply resnet18 --recipe standard --weights wights.pth", 'did you mean "weights.pth"?'),
        ("apply resnet18 --recipe standard --weights folder", "not a file"),
        ("apply resnet18 --recipe standard --weights weights.pth --pretrained", "exclude each other"),
        ("apply resnet18 --recipe standard -o weights.pth", "is a file"),
        ("apply resnet18 --recipe standard -o weights.pth/out", "is a file"),
        ("apply resnet18 --recipe standard -o folder", "holds other files"),
        ("apply resnet18 --recipe standard -o folder --force", "holds other files"),
        ("apply resnet18 --recipe standard -o artefact", "--force replaces it"),
        ("revert artefact -o artefact", "artefact"),
        ("revert artefact", "-o"),
        ("apply resnet18", "--recipe"),
        ("apply", "MODEL"),
        ("aply resnet18", "apply"),
        ("inspect resnet18 --jsn", "--json"),
        ("preview resnet18 --recipe standard --weights weights.pth", "--weights"),
        ("recipes show standrd", "standard"),
        ("recipes check nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    engine: Engine, words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    for name in ("folder/other.txt", "artefact/surgery.json"):
        Path(name).parent.mkdir()
        Path(name).touch()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    result = run(*words.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert "Traceback" not in result.stderr
    assert engine.calls == {}
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(engine: Engine, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = run("apply", "resnet18", "--recipe", "standard", "-o", str(tmp_path / "out"))
    tmp_path.chmod(0o700)
    assert result.exit_code == 2
    assert "may not be written" in result.stderr


def test_force_replaces_an_artefact(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "surgery.json").touch()
    assert run("apply", "resnet18", "--recipe", "standard", "-o", str(tmp_path), "--force").exit_code == 0
    assert engine.calls["save"]["overwrite"] is True


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UnknownNameError("model", "resnet5", ["resnet50"]), 2, 'unknown model "resnet5"; did you mean "resnet50"?'),
        (NothingMatchedError("nothing matched", remedy="look at layer1"), 3, "error: nothing matched; look at layer1"),
        (RuntimeError("a\nbad day"), 1, "internal error: RuntimeError: a bad day\nset SESURGERY_DEBUG=1"),
        (OSError(28, "No space left on device", "out/model"), 1, "error: out/model: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_engine_errors(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str, extra: list[str]
) -> None:
    fails(monkeypatch, error)
    result = run("apply", "resnet18", "--recipe", "standard", *extra)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, RuntimeError("oops"), "inspect")
    assert "Traceback" in run("inspect", "resnet18", env={"SESURGERY_DEBUG": "1"}).stderr
