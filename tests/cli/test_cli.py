"""The command line: exit codes, JSON, errors on one line, and torch imported only where it is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import sesurgery
from sesurgery.cli import progress as cli_progress
from sesurgery.cli.app import app
from sesurgery.errors import NothingMatchedError, UnknownNameError
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
from sesurgery.recipe.recipe import load_recipe

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
    Cost(100, 1000, 2000),
    Cost(110, 1100, 2200),
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


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "apply") -> None:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setitem(sesurgery.__dict__, name, call)


# options


def test_options_reach_the_engine(engine: Engine, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    words = "resnet18 --recipe standard --stages -1 --module se --set reduction=8 --set bias=false --init identity"
    more = ["--model-arg", "num_classes=10", "--input-size", "3,64,64", "--weights", str(weights)]
    result = run("apply", *words.split(), *more)
    assert result.exit_code == 0, result.output
    call = engine.calls["apply"]
    assert call["args"] == ("resnet18", "standard")
    assert call["stages"] == "-1"
    assert call["module"] == "se"
    assert (call["reduction"], call["bias"], call["init"]) == (8, False, "identity")
    assert call["model_args"] == {"num_classes": 10}
    assert call["input_size"] == (3, 64, 64)
    assert call["weights"] == weights
    assert "save" not in engine.calls


@pytest.mark.parametrize("extra", [[], ["-o", "out"], ["--pretrained"]])
def test_weights_are_materialised_only_where_they_matter(
    engine: Engine, extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("apply", "resnet18", "--recipe", "standard", *extra).exit_code == 0
    assert engine.calls["apply"]["device"] == ("cpu" if extra else "meta")
    assert ("save" in engine.calls) is ("-o" in extra)


@pytest.mark.parametrize(
    ("text", "size"), [("3,192,256", (3, 192, 256)), ("192", (3, 192, 192)), ("3x8x112x112", (3, 8, 112, 112))]
)
def test_input_sizes(engine: Engine, text: str, size: tuple[int, ...]) -> None:
    assert run("inspect", "r3d_18", "--input-size", text).exit_code == 0
    assert engine.calls["inspect"]["input_size"] == size


# output


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
    assert re.search(r"^\+     y$", result.stdout, re.M)
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
    assert data["before"] == {"params": 100, "macs": 1000, "flops": 2000}
    assert data["after"] == {"params": 110, "macs": 1100, "flops": 2200}


def test_json_of_an_inspection(engine: Engine) -> None:
    data = json.loads(run("inspect", "resnet18", "--json").stdout)
    assert data["stages"] == [
        {"index": 1, "reduction": 4.0, "height": 56, "width": 56, "blocks": ["layer1.0", "layer1.1"]}
    ]
    assert data["merges"] == [{"path": "layer1.0", "op": "add", "kind": "identity", "stage": 1, "channels": 64}]
    assert data["untraced"] == [{"path": "head", "class": "Head", "reason": "branches on data"}]


# recipes


def test_recipes_lists_names_and_summaries() -> None:
    bare, listed = run("recipes"), run("recipes", "list")
    assert bare.exit_code == 0
    assert bare.stdout == listed.stdout
    assert re.search(r"^standard +\S+", bare.stdout, re.M)


def test_recipes_show_prints_the_text_and_its_meaning() -> None:
    result = run("recipes", "show", "standard")
    assert result.exit_code == 0
    assert "at: before residual add" in result.stdout
    assert "1709.01507" in result.stdout
    assert "insert se" in result.stdout


@pytest.mark.parametrize("name", ["standard", "mobilenetv3"])
def test_what_show_prints_is_the_same_recipe_in_a_file(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(run("recipes", "show", name, env={"COLUMNS": "60"}).stdout, encoding="utf-8")
    assert load_recipe(copy) == load_recipe(name)


def test_recipes_check_accepts_a_good_file_and_names_every_mistake(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: mine\nsummary: x\nrules:\n  - insert: {module: se}\n    at: before residual add\n")
    bad.write_text("name: mine\nsummary: x\nrules:\n  - insert: {modul: se}\n    at: before residul add\n")
    assert run("recipes", "check", str(good)).exit_code == 0
    result = run("recipes", "check", str(bad))
    assert result.exit_code == 2
    assert "modul" in result.stderr
    assert "before residual add" in result.stderr
    assert result.stdout == ""


# errors


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


# processes


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["apply", "--help"], ["recipes"], ["recipes", "show", "standard"]])
def test_light_commands_do_not_import_torch(words: list[str]) -> None:
    code = (
        "import sys, sesurgery\nfrom sesurgery.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "sesurgery", "recipes"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def test_output_in_ascii_does_not_fail() -> None:
    done = python("-m", "sesurgery", "recipes", "show", "standard", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_listed() -> None:
    assert {"apply", "plan", "revert", "inspect", "save", "load", "SurgeryError", "Recipe"} <= set(sesurgery.__all__)
    assert set(sesurgery.__all__) <= set(dir(sesurgery))
    with pytest.raises(AttributeError, match="aply"):
        _ = sesurgery.aply  # pyright: ignore[reportAttributeAccessIssue]
    assert run("--version").stdout.strip() == sesurgery.__version__
