"""Layers, placements and edit kinds from outside: registered once, known everywhere, missed with a clear word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from registries import restored
from torch import nn
from typer.testing import CliRunner, Result

import sesurgery
from sesurgery import extend
from sesurgery.cli.app import app
from sesurgery.edits.child_swap import named_targets, swap
from sesurgery.errors import (
    ArtifactError,
    InputError,
    NothingMatchedError,
    RecipeError,
    StalePlanError,
    UnknownNameError,
)
from sesurgery.plans import Identity, Plan
from sesurgery.recipe.recipe import json_schema, load_recipe
from sesurgery.words import user_code

SCALE = """
import torch
from torch import nn
from sesurgery import extend

@extend.attention("scale")
class Scale(nn.Module):
    def __init__(self, channels, start=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x):
        return x * self.factor

@extend.edit("dropout", at="activation")
def dropout(old, p: float = 0.1):
    return nn.Sequential(old, nn.Dropout(p))

@extend.placement("on every concat input")
def on_every_concat_input(anatomy, at):
    for host, merge in extend.merges(anatomy, "cat"):
        for part in merge.branches:
            yield extend.Site(host, part, (merge.node,), "input")
"""
DROPOUT = {"rules": [{"dropout": {"p": 0.5}, "at": "activation"}]}


@pytest.fixture(autouse=True)
def _scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(user_code._Plugins, "asked", False)
    monkeypatch.setattr(user_code._Plugins, "problems", [])
    with restored():
        yield
    for name in [name for name in sys.modules if name.startswith(("sesurgery_file_", "a_plugin", "a_broken"))]:
        del sys.modules[name]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(self.conv(x))


def chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), Block(), Block()).eval()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """An installed package of one module, which an entry point names."""
    (folder / f"{name}.py").write_text(text)
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[sesurgery.plugins]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(folder)


def test_importing_extend_imports_no_torch() -> None:
    code = "import sys, sesurgery; sesurgery.extend.attention; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# names


def test_the_schema_and_the_check_know_what_is_registered(tmp_path: Path) -> None:
    file, recipe = tmp_path / "scale.py", tmp_path / "mine.yaml"
    file.write_text(SCALE)
    recipe.write_text(
        "rules:\n- dropout: {p: 0.5}\n  at: activation\n- insert: {module: scale}\n  at: on every concat input\n"
    )
    before = json_schema()
    refused = run("recipes", "check", str(recipe))
    assert refused.exit_code == 2
    assert "dropout: unknown key" in refused.stderr
    assert run("recipes", "check", str(recipe), "--import", str(file)).exit_code == 0
    assert "insert scale" not in run("recipes", "show", str(recipe), "--import", str(file)).stderr
    schema = json_schema()["$defs"]
    assert schema["Rule"]["properties"]["dropout"]["anyOf"][0]["$ref"] == "#/$defs/Dropout"
    assert schema["Dropout"]["properties"]["p"] == {"default": 0.1, "title": "P", "type": "number"}
    assert "on every concat input" in schema["Rule"]["properties"]["at"]["anyOf"][0]["enum"]
    assert set(before["$defs"]["Rule"]["properties"]) == {*schema["Rule"]["properties"]} - {"dropout"}


def test_what_is_registered_is_told_from_what_is_misspelt() -> None:
    extend.edit("dropout", at="activation")(lambda old, p=0.1: old)
    extend.placement("on every concat input")(lambda anatomy, at: ())
    with pytest.raises(RecipeError, match=r'rules\[0\]\.dropot: unknown key; did you mean "dropout"'):
        load_recipe({"rules": [{"dropot": {}, "at": "activation"}]})
    with pytest.raises(RecipeError, match=r"dropout\.p: expected a number"):
        load_recipe({"rules": [{"dropout": {"p": "much"}, "at": "activation"}]})
    with pytest.raises(RecipeError, match='did you mean "on every concat input"'):
        load_recipe({"rules": [{"insert": {"module": "se"}, "at": "on each concat inptu"}]})
    with pytest.raises(RecipeError, match="names a place, and dropout needs what to change"):
        load_recipe({"rules": [{"dropout": {}, "at": "on every concat input"}]})


@pytest.mark.parametrize("name", ["insert", "at", "if_present", "copy", "edit", "Dropout", "drop out", ""])
def test_keys_that_an_edit_kind_cannot_have(name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be a key of a rule|is already there"):
        extend.edit(name, at="activation")(lambda old: old)


def test_names_that_are_taken() -> None:
    with pytest.raises(InputError, match='the module "se" is already there'):
        extend.attention("SE")(nn.Identity)
    with pytest.raises(InputError, match='the phrase "after conv" is already there'):
        extend.placement("after the conv")(lambda anatomy, at: ())
    with pytest.raises(UnknownNameError, match='unknown role "activatoin"; did you mean "activation"'):
        extend.edit("dropout", at="activatoin")(lambda old: old)


def test_a_cell_of_a_notebook_can_run_twice_and_two_files_cannot_claim_one_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for text in (SCALE, SCALE.replace("0.1", "0.2")):
        one.write_text(text)
        user_code.import_file(one)
    assert load_recipe({"rules": [{"dropout": {}, "at": "activation"}]}).rules[0].edit.model_dump() == {"p": 0.2}
    two.write_text(SCALE)
    refused = run("preview", "resnet18", "--recipe", "standard", "--import", str(two))
    assert refused.exit_code == 2
    assert 'the module "scale" of one.py is already there' in refused.stderr


# edit kinds


def test_an_edit_kind_says_what_it_cannot_do() -> None:
    def unfit(old: nn.Module) -> nn.Module:
        raise extend.Unfit("not on a Tuesday")

    def broken(old: nn.Module) -> nn.Module:
        raise RuntimeError("no idea\nat all")

    def forgetful(old: nn.Module) -> None:
        return None

    for function, error, message in (
        (unfit, NothingMatchedError, "not on a Tuesday"),
        (broken, NothingMatchedError, "broken fails on this ReLU: RuntimeError: no idea"),
        (forgetful, InputError, "its function returned a NoneType; return an nn.Module"),
    ):
        name = function.__name__
        extend.edit(name, at="activation")(function)
        with pytest.raises(error, match=message):
            sesurgery.plan(chain(), {"rules": [{name: {}, "at": "activation"}]}, input_size=(3, 8, 8))


def test_options_are_those_of_the_function_or_those_that_are_given() -> None:
    def plain(old: nn.Module, width: int, rate: float = 0.5, name: str | None = None, *, deep=False):
        return old

    extend.edit("plain", at=("activation", "norm"))(plain)
    rule = load_recipe({"rules": [{"plain": {"width": 3}, "at": "norm"}]}).rules[0]
    assert rule.edit.model_dump() == {"width": 3, "rate": 0.5, "name": None, "deep": False}
    with pytest.raises(RecipeError, match=r"plain\.width: is missing"):
        load_recipe({"rules": [{"plain": {}, "at": "norm"}]})
    extend.edit("given", at="norm", options={"only": (int, 7)})(lambda old, **options: old)
    assert load_recipe({"rules": [{"given": {}, "at": "norm"}]}).rules[0].edit.model_dump() == {"only": 7}


def test_an_edit_kind_as_a_class() -> None:
    @extend.edit("without", at="activation", options={"only": (str, "ReLU")})
    class Without:
        action = ""

        def targets(self, anatomy: Any, rule: Any) -> Any:
            return named_targets(anatomy, rule)

        def edit(self, anatomy: Any, rule: Any, target: Any) -> Any:
            if type(target.subject).__name__ != rule.edit.only:
                raise extend.Unfit(f"it is no {rule.edit.only}")
            return swap(anatomy, target.path, Identity())

    surgery = sesurgery.apply(chain(), {"rules": [{"without": {}, "at": "activation"}]}, input_size=(3, 8, 8))
    assert [(edit.action, edit.path) for edit in surgery.plan.edits] == [("without", "1.act"), ("without", "2.act")]
    assert isinstance(surgery.model.get_submodule("1.act"), nn.Identity)
    again = sesurgery.apply(chain(), Plan.from_json(surgery.plan.to_json()), input_size=(3, 8, 8))
    assert isinstance(again.model.get_submodule("2.act"), nn.Identity)
    with pytest.raises(NothingMatchedError, match="it is no GELU"):
        sesurgery.plan(chain(), {"rules": [{"without": {"only": "GELU"}, "at": "activation"}]}, input_size=(3, 8, 8))


def test_a_plan_with_an_unknown_action_says_so() -> None:
    with restored():
        extend.edit("dropout", at="activation")(lambda old, p=0.1: nn.Sequential(old, nn.Dropout(p)))
        plan = sesurgery.plan(chain(), DROPOUT, input_size=(3, 8, 8))
    with pytest.raises(StalePlanError, match=r'unknown edit kind "dropout".*import the file that registers them first'):
        sesurgery.apply(chain(), plan, input_size=(3, 8, 8))


# --import and plugins


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("scal.py", 'no such file; did you mean "scale.py"?'),
        ("broken.py", "importing it failed with ZeroDivisionError: division by zero (line 2)"),
        (".", "is a folder, not a Python file"),
        ("notes.txt", "is no Python file"),
    ],
)
@pytest.mark.parametrize("command", ["preview resnet18 --recipe standard", "inspect resnet18", "recipes show standard"])
def test_a_file_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, file: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scale.py").write_text(SCALE)
    Path("broken.py").write_text("x = 0\n1 / x\n")
    Path("notes.txt").write_text("none")
    result = run(*command.split(), "--import", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {file}: {message}")
    assert result.stderr.count("\n") == 1


def test_a_plugin_is_imported_when_a_name_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, monkeypatch, "a_plugin", SCALE)
    sesurgery.plan(chain(), "standard", input_size=(3, 8, 8))
    assert "a_plugin" not in sys.modules
    for recipe, options in (
        ("standard", {"module": "scale"}),
        (DROPOUT, {}),
        ({"rules": [{"insert": {"module": "se"}, "at": "on each concat input"}]}, {}),
    ):
        monkeypatch.setattr(user_code._Plugins, "asked", False)
        sys.modules.pop("a_plugin", None)
        with restored():
            model = "torchvision:squeezenet1_1" if "concat" in str(recipe) else chain()
            size = (3, 64, 64) if isinstance(model, str) else (3, 8, 8)
            assert sesurgery.plan(model, recipe, input_size=size, **options).edits
        assert "a_plugin" in sys.modules


def test_a_broken_plugin_is_one_line_and_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, monkeypatch, "a_broken_one", "import a_library_that_is_not_there")
    plugin(tmp_path, monkeypatch, "a_plugin", SCALE)
    assert sesurgery.plan(chain(), DROPOUT, input_size=(3, 8, 8)).edits
    said = 'the plugin "a_broken_one" of a_broken_one cannot be imported (ModuleNotFoundError: No module named'
    for command in ("preview resnet18 --recipe standard --module scle", "recipes check mine.yaml"):
        (tmp_path / "mine.yaml").write_text("rules:\n- zoom: {}\n  at: activation\n")
        monkeypatch.chdir(tmp_path)
        result = run(*command.split())
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr


# artefacts and plans


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("standard", {"module": "scale"}, 'the module "scale" of scale.py, which is not registered here'),
        (DROPOUT, {}, 'the edit kind "dropout" of scale.py, which is not registered here'),
    ],
)
def test_an_artefact_says_what_to_import(tmp_path: Path, recipe: object, options: dict[str, str], message: str) -> None:
    file, folder = tmp_path / "scale.py", tmp_path / "saved"
    file.write_text(SCALE)
    x = torch.randn(1, 3, 8, 8)
    with restored():
        user_code.import_file(file)
        surgery = sesurgery.apply(chain(), recipe, input_size=(3, 8, 8), **options)  # type: ignore[arg-type]
        sesurgery.save(surgery, folder)
        expected = surgery.model(x)
    with pytest.raises(ArtifactError, match=message) as caught:
        sesurgery.load(folder, model=chain())
    assert "import scale.py first" in str(caught.value)
    sesurgery.revert_folder(folder, tmp_path / "base")
    for name in [name for name in sys.modules if name.startswith("sesurgery_file_")]:
        del sys.modules[name]  # as in another process
    user_code.import_file(file)
    assert torch.equal(sesurgery.load(folder, model=chain())(x), expected)
