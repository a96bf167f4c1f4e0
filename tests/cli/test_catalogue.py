"""``sesurgery layers``, ``sesurgery places`` and ``sesurgery recipes schema``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stand_in import run

from sesurgery.attention import names
from sesurgery.recipe.phrases import PHRASES
from sesurgery.recipe.recipe import recipe_folder

ROOT = Path(__file__).parents[2]


def test_layers_are_listed_and_shown_with_options_defaults_and_source() -> None:
    assert run("layers").stdout == run("layers", "list").stdout
    assert all(name in run("layers").stdout for name in names())
    shown = run("layers", "show", "ca").stdout
    assert "coord" in shown
    assert "arXiv:2103.02907" in shown
    assert "hard_swish" in shown
    assert "bound to maps of" in run("layers", "show", "bottleneck").stdout
    assert run("layers", "show", "cord").exit_code == 2


def test_places_have_a_sentence_an_example_and_a_count() -> None:
    text = run("places").stdout
    assert all(name in text for name in PHRASES)
    assert "+ out = self.se(self.bn2(out)); out += identity" in text
    counted = run("places", "resnet18", "--json")
    assert json.loads(counted.stdout)["counts"]["before residual add"] == 8
    assert "before residual add [8 there]" in run("places", "resnet18").stdout


def test_the_schema_names_every_layer_with_its_options_and_every_phrase() -> None:
    schema = json.loads(run("recipes", "schema").stdout)
    insert = schema["$defs"]["Insert"]["properties"]
    assert {*names(), "ca"} <= set(insert["module"]["enum"])
    assert insert["reduction"]["type"] == "number"
    assert insert["act"]["enum"][0] == "relu"
    at = schema["$defs"]["Rule"]["properties"]["at"]
    assert len(at["anyOf"][0]["enum"]) == len(at["anyOf"][0]["enumDescriptions"])


@pytest.mark.parametrize("recipe", sorted(recipe_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_each_shipped_recipe_names_the_schema_beside_it(recipe: Path) -> None:
    line = next(line for line in recipe.read_text().splitlines() if "yaml-language-server" in line)
    assert (recipe.parent / line.partition("$schema=")[2]).is_file()
