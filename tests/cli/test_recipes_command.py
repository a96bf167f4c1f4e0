"""``sesurgery recipes``: list, show and check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stand_in import run

from sesurgery.recipe.recipe import load_recipe


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
