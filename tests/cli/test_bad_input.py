"""Bad input through the command line: one clear message, the right exit code, nothing written."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from networks import TINY

from sesurgery import __main__

GOOD = "rules:\n  - insert: {module: se}\n    at: before residual add\n"
BOMB = "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nrules: [*c, *c]\n"
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


@dataclass(frozen=True)
class Case:
    """A command, the files it finds, and what it must say.

    Attributes:
        words: arguments; ``{d}`` stands for the folder of the test.
        says: regular expressions that the message holds: the place, what is wrong, the remedy.
        code: exit code.
        files: what lies in the folder before, by name; None is a folder.
    """

    words: str
    says: tuple[str, ...]
    code: int = 2
    files: tuple[tuple[str, str | bytes | None], ...] = ()


def on(recipe_text: str | bytes, *says: str, code: int = 2) -> Case:
    """A case in which the recipe file is at fault."""
    return Case(f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", *says), code, (("mine.yaml", recipe_text),))


def with_weights(name: str, data: str | bytes, *says: str) -> Case:
    """A case in which the checkpoint is at fault."""
    words = f"apply {TINY} --recipe standard --weights {{d}}/{name} -o {{d}}/out"
    return Case(words, (re.escape(name), *says), files=((name, data),))


def tiny_with(*words: str) -> str:
    return " ".join((f"apply {TINY} --recipe standard", *words))


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SAFE = struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 8

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
    "model argument that loads weights": Case(tiny_with("--model-arg pretrained=true"), ("--pretrained or --weights",)),
    "model argument of a wrong value": Case(
        tiny_with("--model-arg num_classes=many"), ("test_resnet", "num_classes=many")
    ),
    "unknown recipe": Case(f"apply {TINY} --recipe standart", ('recipe "standart"', 'did you mean "standard"')),
    "no recipe": Case(f"apply {TINY}", ("--recipe", "--help")),
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
    "empty recipe": on("", "mapping|empty", "rules"),
    "recipe of a scalar": on("standard\n", "mapping"),
    "recipe without rules": on("name: x\n", "rules"),
    "malformed yaml": on("rules: [\n", "check"),
    "tabs": on("rules:\n\t- insert: se\n", "tabs"),
    "tag that constructs": on("rules: !!python/object/apply:os.system ['touch {d}/ran']\n", "tag"),
    "tag of one's own": on("!recipe\nrules: []\n", "tag"),
    "alias bomb": on(BOMB, "alias|anchor"),
    "merge keys": on("rules:\n  - <<: {at: end of block}\n", "merge keys"),
    "key twice": on(f"name: a\nname: b\n{GOOD}", "twice", "remove one"),
    "two documents": on(f"---\n{GOOD}---\n{GOOD}", "one recipe per file"),
    "enormous yaml": on("# x\n" * 1_000_000 + GOOD, "MiB|KiB|large|bytes"),
    "deep yaml": on("rules: " + "[" * 5000 + "]" * 5000, "deep|nested"),
    "huge number": on(GOOD.replace("se}", f"se, reduction: {'9' * 5000}}}"), "number|digits|usable"),
    "not utf-8": on(b"rules: \xff\xfe\x80", r"UTF-8|utf-8|text"),
    "binary file": on(bytes(range(256)) * 8, "text|character|UTF-8"),
    "unknown phrase": on(
        GOOD.replace("residual add", "residul add"), r"rules\[0\]", 'did you mean "before residual add"'
    ),
    "unknown key": on(GOOD + "    wheer: {stages: 1}\n", r"rules\[0\]", "wheer", "where"),
    "unknown condition": on(GOOD + "    where: {chanels: 3}\n", r"rules\[0\]", "channels"),
    "rule that does nothing": on("rules:\n  - at: end of block\n", r"rules\[0\]", "insert"),
    "unknown module in a recipe": on(GOOD.replace("se}", "see}"), r"rules\[0\]", "see"),
    "recipe that is not there": Case(f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", "no such file")),
    "recipe that is a folder": Case(
        f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", "folder|directory"), files=(("mine.yaml", None),)
    ),
    "check of no recipe": Case("recipes check {d}/mine.yaml", (r"mine\.yaml", "rules"), files=(("mine.yaml", "a: 1"),)),
    "show of no recipe": Case("recipes show standrad", ("standrad", 'did you mean "standard"')),
    "recipe that matches nothing": Case(
        "apply {d}/net.py:net --recipe standard",
        ("matched nothing", "no merges", "sesurgery inspect"),
        3,
        (("net.py", PLAIN),),
    ),
    "recipe that is left no place": Case(tiny_with("--set rd_channels=8 --stages 1 --module ese"), ("rd_channels",)),
    "weights that are not there": Case(tiny_with("--weights {d}/x.pth"), (r"x\.pth", "no such file", "check the path")),
    "weights that are a folder": Case(
        tiny_with("--weights {d}/x.pth"), (r"x\.pth", "not a file"), files=(("x.pth", None),)
    ),
    "weights by another name": with_weights("x.txt", "hello", "no checkpoint by its name", r"\.safetensors"),
    "empty checkpoint": with_weights("x.pth", b"", "is empty", "save or download"),
    "no checkpoint": with_weights("x.pth", b"hello world", "truncated or no checkpoint"),
    "truncated checkpoint": with_weights("x.pth", b"PK\x03\x04" + b"\0" * 64, "truncated or no checkpoint"),
    "no safetensors": with_weights("x.safetensors", b"\xff" * 32, "truncated or no checkpoint"),
    "truncated safetensors": with_weights("x.safetensors", SAFE[:-3], "truncated or no checkpoint", "save or download"),
    "checkpoint of another model": with_weights(
        "x.safetensors", SAFE, "does not fit the model", "missing", "unexpected"
    ),
    "weights twice": Case(
        tiny_with("--weights {d}/x.pth --pretrained"),
        ("--pretrained and --weights", "give one"),
        files=(("x.pth", b"1"),),
    ),
    "output that is a file": Case(
        tiny_with("-o {d}/out"), ("out", "is a file", "name a folder"), files=(("out", "mine"),)
    ),
    "output below a file": Case(tiny_with("-o {d}/out/a"), ("out", "is a file"), files=(("out", "mine"),)),
    "output with other files": Case(
        tiny_with("-o {d}/out"), ("holds other files", "new or empty"), files=(("out/thesis.tex", "mine"),)
    ),
    "output with other files, forced": Case(
        tiny_with("-o {d}/out --force"), ("holds other files",), files=(("out/thesis.tex", "mine"),)
    ),
    "output that holds an artefact": Case(
        tiny_with("-o {d}/out"), ("artefact is there", "--force"), files=(("out/surgery.json", "{}"),)
    ),
    "revert of nothing": Case("revert {d}/none -o {d}/out", ("none", "no such folder", "sesurgery.save")),
    "revert of a file": Case("revert {d}/a -o {d}/out", ("is a file",), files=(("a", "mine"),)),
    "revert of another folder": Case("revert {d}/a -o {d}/out", ("no artefact",), files=(("a/b", "mine"),)),
    "revert of a broken artefact": Case(
        "revert {d}/a -o {d}/out", ("no JSON", "again"), files=(("a/surgery.json", "{"),)
    ),
    "revert into a full folder": Case("revert {d}/a -o {d}/b", ("holds other files",), files=(("b/c", "mine"),)),
}


@pytest.fixture(autouse=True)
def _no_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    assert not [path for path in sys.path if "test_" in path and "pytest-" in path]


def run(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sesurgery", *words])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def listing(folder: Path) -> dict[str, bytes | None]:
    found = {path: path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    for file, content in case.files:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content.replace("{d}", str(tmp_path)))
    before = listing(tmp_path)
    words = [word.replace("{d}", str(tmp_path)).replace("''", "") for word in case.words.split()]
    code, out, err = run(words, monkeypatch, capsys)
    assert code == case.code, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "internal error" not in err
    for text in case.says:
        assert re.search(text, err), f"{text!r} is not in {err!r}"
    assert len(err) < 2000
    assert listing(tmp_path) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 30


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    code, _, err = run(tiny_with("-o", str(tmp_path / "out" / "a")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {"out": None})
    assert "may not be written to" in err


def test_output_without_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    code, _, err = run(tiny_with("-o", str(tmp_path / "out")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {})
    assert re.search("may not be written to.*choose a folder", err)


def test_a_disk_that_fills_up_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(tiny_with("-o", str(tmp_path / "new" / "out")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {})
    assert re.search(r"out: cannot be written: No space left.*check", err)
