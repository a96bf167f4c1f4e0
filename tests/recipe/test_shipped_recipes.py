"""The recipes that ship, and where recipes come from."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml
from places import ROOT

from sesurgery.errors import InputError, RecipeError, UnknownNameError
from sesurgery.recipe import recipe as recipes
from sesurgery.recipe import safe_yaml as yaml_reader
from sesurgery.recipe.recipe import load_recipe, to_data
from sesurgery.recipe.selectors import SiteFacts

NAMES = recipes.recipe_names()
RULE = "rules: [{insert: {module: se}, at: before residual add}]"


def test_every_system_of_the_literature_ships():
    wanted = """standard pre post identity se-3x3 backbone-end plain inception pp-lcnet regnety mbconv mobilenetv3
        mobilenetv3-end yolov5-c3 yolov5-c3-second effective-se shufflenet-se shufflenet-sk shufflenet-skconv
        shufflenet-k5 shufflenet-liteconv shufflenet-csp swap-attention strip-attention"""
    assert set(wanted.split()) <= set(NAMES)
    assert [recipe.name for recipe in recipes.list_recipes()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_loads_round_trips_and_says_what_it_is(name):
    recipe = load_recipe(name)
    data = to_data(recipe)
    assert load_recipe(json.loads(json.dumps(data))) == recipe
    assert load_recipe(yaml_reader.read(yaml.safe_dump(data))) == recipe
    assert recipe.summary
    assert recipe.when
    assert recipe.source
    text = recipes.recipe_text(name)
    header = text.split("\nname:")[0]
    assert "# When: " in header
    assert "# Source: " in header
    assert all(len(line) <= 120 for line in header.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_editors_accept_the_places_of_shipped_recipes(name):
    names, *patterns = recipes.json_schema()["$defs"]["Rule"]["properties"]["at"]["anyOf"]
    for rule in yaml_reader.read(recipes.recipe_folder() / f"{name}.yaml")["rules"]:
        spelt = any(re.search(pattern["pattern"], rule["at"]) for pattern in patterns)
        assert rule["at"] in names["enum"] or spelt, rule["at"]


def test_the_schema_in_docs_is_fresh():
    assert json.loads((ROOT / "docs/recipe-schema.json").read_text()) == recipes.json_schema()


def test_standard_is_what_the_design_says():
    assert to_data(load_recipe("standard"))["rules"] == [
        {"insert": {"module": "se", "reduction": 16}, "at": "before residual add"}
    ]


# Tables 1 and 2 of the MobileNetV3 paper: kernel, expanded channels, SE, stage of the output at 224x224.
LARGE = """3 16 - 1; 3 64 - 2; 3 72 - 2; 5 72 SE 3; 5 120 SE 3; 5 120 SE 3; 3 240 - 4; 3 200 - 4; 3 184 - 4; 3 184 - 4;
    3 480 SE 4; 3 672 SE 4; 5 672 SE 5; 5 960 SE 5; 5 960 SE 5"""
SMALL = """3 16 SE 2; 3 72 - 3; 3 88 - 3; 5 96 SE 4; 5 240 SE 4; 5 240 SE 4; 5 120 SE 4; 5 144 SE 4; 5 288 SE 5;
    5 576 SE 5; 5 576 SE 5"""


@pytest.mark.parametrize("table", [LARGE, SMALL])
def test_mobilenetv3_has_se_exactly_where_the_paper_has_it(table):
    rules = load_recipe("mobilenetv3").rules
    for row in table.split(";"):
        kernel, channels, gate, stage = row.split()
        facts = SiteFacts(stage=int(stage), stages=5, channels=int(channels), kernel=int(kernel))
        hits = [rule for rule in rules if rule.where.mismatch(facts) is None]
        assert len(hits) == (gate == "SE"), row


def test_reading_recipes_imports_no_torch():
    code = (
        "import sys, sesurgery.recipe.recipe as r; r.list_recipes(); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_recipe_by_file_by_mapping_and_by_itself(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(RULE)
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert load_recipe(str(path)) == recipe == recipes.check_file(path)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.yaml") == load_recipe("./mine.yaml") == recipe
    assert load_recipe(recipe) is recipe
    assert load_recipe(to_data(recipe)) == recipe
    assert load_recipe("Se_3x3").name == "se-3x3"


@pytest.mark.parametrize("name", ["standrad", "", "zzz", "standard\x00", "x" * 10_000])
def test_a_name_that_no_recipe_has(name):
    with pytest.raises(UnknownNameError) as caught:
        load_recipe(name)
    assert 'unknown recipe "' in str(caught.value)
    assert "did you mean" in str(caught.value) or "sesurgery recipes lists them" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_name_that_is_nearly_one():
    with pytest.raises(UnknownNameError, match='did you mean "standard"'):
        load_recipe("standrad")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nowhere/mine.yaml", "nowhere/mine.yaml › no such file; check the path"),
        ("./tests/", "this is a folder"),
        ("/dev/zero", "no regular file"),
        ("x" * 5000 + ".yaml", "cannot be read"),
        ("a\0b.yaml", "a?b.yaml › "),
        ({"rules": [{1: 2}]}, "the key 1 is no text"),
        ({"rules": object()}, "a object is no plain data"),
        ({"rules": [{"insert": {"module": "se", "reduction": float("nan")}}]}, "a float is no plain data"),
        (7, "a int is no recipe"),
    ],
)
def test_things_that_are_no_recipe(ref, message):
    with pytest.raises(InputError) as caught:
        load_recipe(ref)
    assert message in str(caught.value)


def test_a_mapping_that_contains_itself_is_refused():
    data: dict = {}
    data["rules"] = [data]
    with pytest.raises(RecipeError, match="nested deeper than 20 levels"):
        load_recipe(data)


def test_a_recipe_does_not_change_with_what_it_was_made_from():
    data = {"rules": [{"insert": {"module": "se", "reduction": 8}, "at": "end of block"}]}
    recipe = load_recipe(data)
    data["rules"][0]["insert"]["reduction"] = 2
    assert recipe.rules[0].node.options == {"reduction": 8}
