"""Bad input through the command line: one message, the right exit code, nothing written; and faults inside apply."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import Branching
from torch import nn

import sesurgery
from sesurgery import __main__, generated, insert, operate, planning, surgery, survey
from sesurgery.errors import SurgeryError
from sesurgery.marks import HOST_MARK, MODEL_MARK

TINY = "timm:test_resnet"
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


# faults inside the Python functions


def snapshot(model: nn.Module) -> Any:
    """Everything an operation could change, down to the order of attributes; by identity where that says more."""
    parts = []
    for path, module in model.named_modules(remove_duplicate=False):
        fields = [(name, id(value)) for name, value in module.__dict__.items() if not isinstance(value, dict)]
        tables = [(name, list(value.items())) for name, value in module.__dict__.items() if isinstance(value, dict)]
        ids = [(name, [(key, id(item)) for key, item in items]) for name, items in tables]
        parts.append((path, id(type(module)), module.training, list(module.__dict__), fields, ids))
    return parts, {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()


def assert_untouched(model: nn.Module, before: Any) -> None:
    parts, state, rng = snapshot(model)
    assert parts == before[0]
    assert list(state) == list(before[1])
    assert all(torch.equal(state[key], before[1][key]) for key in state)
    assert torch.equal(rng, before[2])


BAD_CALLS: dict[str, Callable[[nn.Module], object]] = {
    "recipe": lambda model: sesurgery.apply(model, "standart", inplace=True),
    "recipe of another type": lambda model: sesurgery.apply(model, 7, inplace=True),  # type: ignore[arg-type]
    "stages": lambda model: sesurgery.apply(model, "standard", stages="9", inplace=True),
    "module": lambda model: sesurgery.apply(model, "standard", module="sse", inplace=True),
    "option": lambda model: sesurgery.apply(model, "standard", reduktion=8, inplace=True),
    "value": lambda model: sesurgery.apply(model, "standard", reduction="x", inplace=True),
    "example": lambda model: sesurgery.apply(model, "standard", example_input=torch.ones(1, 7, 8, 8), inplace=True),
    "size": lambda model: sesurgery.apply(model, "standard", input_size=(1, 1), inplace=True),
    "model_args": lambda model: sesurgery.apply(model, "standard", model_args={"a": 1}, inplace=True),
    "weights": lambda model: sesurgery.apply(model, "standard", weights="none.pth", inplace=True),
    "nothing matched": lambda model: sesurgery.apply(model, "shufflenet-k5", inplace=True),
    "stale plan": lambda model: sesurgery.apply(model, sesurgery.plan(TINY, "standard"), inplace=True),
    "plan with stages": lambda model: sesurgery.apply(model, sesurgery.plan(TINY, "standard"), stages=1, inplace=True),
    "revert": sesurgery.revert,
    "save": lambda model: sesurgery.save(model, "never"),
    "load": lambda model: sesurgery.load("never", model=model),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_leave_the_model_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = Branching()
    model.first.eval()
    before = snapshot(model)
    with pytest.raises(SurgeryError) as caught:
        BAD_CALLS[name](model)
    assert_untouched(model, before)
    assert caught.value.what
    assert os.listdir(tmp_path) == []


class FaultError(BaseException):
    """A fault that nothing in the package may catch and swallow."""


def inject(patch: pytest.MonkeyPatch, place: tuple[Any, str], step: int, *, after: bool) -> list[int]:
    """Fail at the ``step``-th call of a function, before or after it has done its work."""
    owner, name = place
    real = getattr(owner, name)
    calls: list[int] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == step and not after:
            raise FaultError
        result = real(*args, **kwargs)
        if len(calls) == step:
            raise FaultError
        return result

    patch.setattr(owner, name, broken)
    return calls


PLACES: dict[str, tuple[Any, str]] = {
    "looking": (planning, "survey"),
    "dissecting": (planning, "dissect"),
    "planning": (surgery, "draft"),
    "performing on the twin and its costs": (planning, "perform"),
    "running the twin": (survey, "run"),
    "counting the costs": (planning, "_cost_after"),
    "a node on the twin or the model": (insert._Build, "__call__"),
    "performing": (surgery, "perform"),
    "building all nodes": (operate, "_build"),
    "setting a child": (operate, "_set_child"),
    "setting a forward": (operate, "_set_forward"),
    "marking a host": (operate, "_mark"),
    "making a class": (operate, "operated_class"),
    "compiling a class": (generated, "_make_class"),
    "saying what was done": (surgery, "describe"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", PLACES)
def test_a_fault_at_any_step_leaves_the_model_as_it_was(name: str, after: bool) -> None:
    if name == "performing" and after:
        pytest.skip("then the operation is done")
    model = Branching()
    model.first.eval()
    before = snapshot(model)
    for step in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generated, "_CLASSES", {})
            calls = inject(patch, PLACES[name], step, after=after)
            try:
                operated = sesurgery.apply(model, "standard", inplace=True, example_input=torch.ones(1, 3, 8, 8))
            except FaultError:
                assert_untouched(model, before)
                continue
            assert len(calls) < step
            break
    assert step > 1, "the fault was never reached"
    assert operated.model is model
    assert MODEL_MARK in model.__dict__
    sesurgery.revert(model)
    assert_untouched_state(model, before)


def assert_untouched_state(model: nn.Module, before: Any) -> None:
    assert list(model.state_dict()) == list(before[1])
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())
    assert not any(HOST_MARK in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", ["setting a child", "setting a forward", "saying what was done"])
def test_a_fault_in_a_second_operation_keeps_the_first(name: str) -> None:
    model = sesurgery.apply(Branching(), "standard", example_input=torch.ones(1, 3, 8, 8)).model
    before = snapshot(model)
    with pytest.MonkeyPatch.context() as patch:
        calls = inject(patch, PLACES[name], 0, after=False)
        sesurgery.apply(model, "post", example_input=torch.ones(1, 3, 8, 8))
    torch.set_rng_state(before[2])
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, PLACES[name], len(calls), after=True)
        with pytest.raises(FaultError):
            sesurgery.apply(model, "post", inplace=True, example_input=torch.ones(1, 3, 8, 8))
    assert_untouched(model, before)


def test_a_fault_in_a_real_class_of_timm() -> None:
    model = timm.create_model("test_resnet")
    before = snapshot(model)
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, (operate, "_set_child"), 7, after=True)
        with pytest.raises(FaultError):
            sesurgery.apply(model, "standard", inplace=True)
    assert_untouched(model, before)
