"""Recipes as data: what ships, what is refused and how, what an override changes."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT

from sesurgery.errors import InputError, RecipeError, UnknownNameError
from sesurgery.recipe import recipe as recipes
from sesurgery.recipe import safe_yaml as yaml_reader
from sesurgery.recipe.recipe import load_recipe, override, parse_recipe, parse_setting, to_data
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.recipe.where import Where

NAMES = recipes.recipe_names()
RULE = "rules: [{insert: {module: se}, at: before residual add}]"


def refused(text, source="mine.yaml") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source)
    return caught.value


# What ships


def test_every_system_of_the_literature_ships():
    wanted = """standard pre post identity se-3x3 backbone-end plain inception pp-lcnet regnety mbconv mobilenetv3
        mobilenetv3-end yolov5-c3 yolov5-c3-second effective-se shufflenet-se shufflenet-sk shufflenet-k5
        shufflenet-liteconv shufflenet-csp swap-attention strip-attention"""
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


# Where recipes come from


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


# What is refused: the text, and what the message says

BAD_YAML = {
    "": "mine.yaml:1:1 › the file is empty; a recipe needs at least rules:",
    "# nothing\n": "the file is empty",
    "a: [1\n": "mine.yaml:2:1 › ",
    "a: 1\n---\nb: 2": "mine.yaml:2:1 › more than one document",
    "a: 1\na: 2": 'mine.yaml:2:1 › the key "a" is there twice; remove one',
    "a: !!python/object/apply:os.system ['true']": "mine.yaml:1:4 › the tag",
    "a: !mine x": "is not allowed, a recipe is plain data",
    "a: !!binary aGk=": "is not allowed",
    "a: !!set {x}": "is not allowed",
    "a: &x [1]\nb: 2": "mine.yaml:1:4 › anchors (&x) are not allowed",
    "path: *attn": "aliases (*attn) are not allowed",
    "path: *.attn": "while scanning an alias",
    "a: {<<: {b: 1}}": "merge keys (<<) are not allowed",
    "[" * 30: "nested deeper than 20 levels",
    "- " * 5000 + "x": "nested deeper than 20 levels",
    "{a: " * 50_000: "nested deeper than 20 levels",
    "a: " + "9" * 5000: "mine.yaml:1:4 › ",
    "a: 1e999": "is no finite number",
    "a: .nan": "is no finite number",
    "a: !!int x": "is no usable int",
    "a: !!bool maybe": "is no usable bool",
    "a: !!map [1]": "does not fit what follows",
    'a: "\\ud800"': "a control character or half a character",
    'a: "\\e[31m"': "a control character",
    'a: "\\UFFFFFFFF"': "mine.yaml:1:1 › not readable as YAML",
    "a: \x00": "mine.yaml:1:4 › the character U+0000 has no place in text",
    "a: \x1b[31m": "the character U+001B",
    "a:\n\t- b": "indent with spaces, not tabs",
    "where: {stages: 1,3}": 'quote it: stages: "1,3"',
    "? [1]\n: 2": "a key must be a word",
    "channels: >=128": 'put quotes around the value, as in channels: ">=128"',
    "where: {channels: >=128}": "put quotes around the value",
    "channels: !=128": "put quotes around the value",
    "where: {blocks: :4}": "put quotes around the value",
    "%YAML 9.9\n---\na: 1": "YAML",
    "just text": "a recipe is a mapping",
    "- 1": "a recipe is a mapping",
    "a: " + "x" * 300_000: "larger than 256 KiB",
    b"a: 1\nb: \xff\xfe": "mine.yaml:2:4 › byte 0xff is not UTF-8 text; save the file as UTF-8",
    b"\xff\xfea\x00": "not UTF-8",
    b"PK\x03\x04\x00\x00": "U+0003",
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.items(), ids=range(len(BAD_YAML)))
def test_yaml_that_is_refused(text, message):
    error = refused(text)
    assert message in str(error)
    assert len(str(error)) < 700
    assert str(error).isprintable()


BAD_RECIPES = {
    "rules: []": "rules: is empty; a recipe needs at least one rule",
    "name: x": "rules: is missing; a recipe needs at least one rule",
    "ruels: []": 'ruels: unknown key; did you mean "rules"?',
    "rules: 3": "rules: expected a list, not 3",
    "rules: [3]": "rules[0]: expected a mapping (key: value), not 3",
    "rules: [{at: end of block}]": "rules[0]: a rule needs exactly one of insert, replace, remove",
    "rules: [{insert: {module: se}}]": "rules[0].at: is missing; say where, such as at: before residual add",
    "rules: [{insert: {module: se}, at: before residul add}]": (
        'rules[0].at: "before residul add"; did you mean "before residual add"?'
    ),
    "rules: [{inser: {module: se}, at: end of block}]": 'rules[0].inser: unknown key; did you mean "insert"?',
    "rules: [{insert: se, at: end of block}]": 'rules[0].insert: expected a mapping (key: value), not "se"',
    "rules: [{insert: {}, at: end of block}]": "rules[0].insert.module: is missing; name a node, such as module: se",
    "rules: [{insert: {module: sse}, at: end of block}]": 'rules[0].insert.module: unknown module "sse"; did you mean',
    "rules: [{insert: {module: se, reductoin: 4}, at: end of block}]": "rules[0].insert.reductoin: unknown option of",
    "rules: [{insert: {module: se, reduction: 0}, at: end of block}]": "rules[0].insert.reduction: 0 is not a number",
    "rules: [{insert: {module: se, gate: sigmod}, at: end of block}]": 'rules[0].insert.gate: "sigmod" is not known',
    "rules: [{insert: {module: se, name: a b}, at: end of block}]": 'insert.name: "a b" cannot be the name of a module',
    "rules: [{insert: {module: se, name: class}, at: end of block}]": '"class" is taken by Python',
    "rules: [{insert: {module: se}, remove: {}, at: end of block}]": "insert and remove are there; make two rules",
    "rules: [{insert: {module: se}, at: conv 1}]": 'needs a place; did you mean "after conv 1"?',
    "rules: [{insert: {module: se}, at: stage}]": '"stage" names a part of the model, and insert needs a place',
    "rules: [{replace: {kernel: 5}, at: after conv}]": 'needs what to change there; did you mean "conv"?',
    "rules: [{replace: {kernel: 5}, at: norm}]": "replace needs another; it is one of",
    "rules: [{replace: {kernel: 4}, at: conv}]": "rules[0].replace.kernel: 4 is even and would shift the map; use 5",
    "rules: [{replace: {kernel: 500}, at: conv}]": "rules[0].replace.kernel: 500 will not do",
    "rules: [{replace: {kernel: five}, at: conv}]": 'rules[0].replace.kernel: expected a whole number, not "five"',
    "rules: [{replace: {}, at: conv}]": "needs one of kernel, dilation, activation, norm, module; none given",
    "rules: [{replace: {kernel: 5, norm: group}, at: conv}]": "needs one of kernel, dilation, activation, norm, module",
    "rules: [{replace: {kernle: 5}, at: conv}]": "needs one of kernel",
    "rules: [{replace: {kernel: 5, dilatoin: 2}, at: conv}]": 'replace.dilatoin: unknown key; did you mean "dilation"?',
    "rules: [{replace: {activation: sil}, at: activation}]": 'activation: "sil" is not known; did you mean "silu"?',
    "rules: [{replace: {norm: grup}, at: norm}]": 'replace.norm: "grup" is not known; did you mean "group"?',
    "rules: [{replace: {activation: silu, embed: true}, at: activation}]": "embed: only kernel and dilation have",
    "rules: [{remove: {with_norm: true}, at: attention}]": 'remove.with_norm: "attention" has no norm of its own',
    "rules: [{remove: {with_norm: 3}, at: conv}]": "rules[0].remove.with_norm: expected true or false, not 3",
    "rules: [{rewire: {to: cps}, at: stage}]": 'rules[0].rewire.to: "cps" is not known; did you mean "csp"?',
    "rules: [{rewire: {to: csp, split: 1.5}, at: stage}]": "rules[0].rewire.split: 1.5 will not do",
    RULE[:-2] + ", where: {stage: 1}}]": 'rules[0].where.stage: unknown key; did you mean "stages"?',
    RULE[:-2] + ", where: {stages: four}}]": 'rules[0].where.stages: "four" selects no stages; use a form such as 4',
    RULE[:-2] + ", where: {blocks: '::0'}}]": "rules[0].where.blocks: ",
    RULE[:-2] + ", where: {channels: big}}]": 'rules[0].where.channels: "big" is no condition on a number',
    RULE[:-2] + ", where: {has: depth conv}}]": 'where.has: "depth conv" is not known; did you mean "depthwise conv"?',
    RULE[:-2] + ", where: {type: []}}]": "rules[0].where.type: expected a word or a list of words",
    RULE[:-2] + ", where: {not: {}}}]": "rules[0].where.not: asks nothing",
    RULE[:-2] + ", where: {not: {typ: A}}}]": 'rules[0].where.not.typ: unknown key; did you mean "type"?',
    RULE[:-2] + ", if_present: stak}]": 'rules[0].if_present: "stak" is not known; did you mean "stack"?',
    "name: ''\n" + RULE: 'name: "" will not do',
    "name: [a]\n" + RULE: "name: expected text, not a list",
}


@pytest.mark.parametrize(("text", "message"), BAD_RECIPES.items(), ids=range(len(BAD_RECIPES)))
def test_recipes_that_are_refused(text, message):
    error = refused(text)
    assert message in str(error)
    assert all(str(error).splitlines()[index].endswith(problem) for index, problem in enumerate(error.problems))


def test_all_errors_at_once_each_with_its_place(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
        summry: x
        rules:
          - insert: {module: se, reductoin: 16, gate: 3}
            at: before residul add
            where: {chanels: 3, has: what}
          - {insert: {module: se}, remove: {}, at: conv 0}
        """
    )
    with pytest.raises(RecipeError) as caught:
        recipes.check_file(path)
    places = [problem.split(": ")[0] for problem in caught.value.problems]
    first = {"rules[0].insert.reductoin", "rules[0].insert.gate", "rules[0].where.chanels", "rules[0].where.has"}
    assert len(places) == len(set(places))
    assert set(places) == first | {"summry", "rules[0].at", "rules[1].at", "rules[1]"}
    assert all(line.startswith(f"{path} › ") for line in str(caught.value).splitlines())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules:\n" + "- {at: x}\n" * 20_000, "more than 100 entries"),
        ("".join(f"k{number}: 1\n" for number in range(15_000)), "more than 100 entries"),
        ("rules:\n" + "- {at: x, b: 1}\n" * 90, "and 130 more; mend these first"),
    ],
)
def test_a_flood_of_mistakes_gives_one_short_message(text, message):
    error = refused(text)
    assert message in str(error)
    assert len(error.problems) <= 51


def test_yaml_scalars_mean_what_they_look_like():
    text = (
        "{a: 1:30, b: on, c: 2020-13-45, d: 0x10, e: ~, f: true, g: -1, h: 1.5, i: '=', j: '1', k: 0o17, l: =, m: 2-}"
    )
    assert yaml_reader.read(text) == {
        "a": "1:30", "b": "on", "c": "2020-13-45", "d": 16, "e": None, "f": True, "g": -1, "h": 1.5, "i": "=",
        "j": "1", "k": 15, "l": "=", "m": "2-",
    }  # fmt: skip
    assert yaml_reader.read("\ufeffa: 1".encode()) == {"a": 1}
    assert yaml_reader.read("blocks: :4\nstages: 1,3") == {"blocks": ":4", "stages": "1,3"}


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=80) | st.text("[]{}:,-?&*!|>'\"%@ \n\tab01\\~#", max_size=60))
def test_no_text_makes_the_reader_raise_anything_else(text):
    with contextlib.suppress(RecipeError):
        parse_recipe(text)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_mutation_of_a_shipped_recipe_raises_anything_else(data):
    text = recipes.recipe_text(data.draw(st.sampled_from(NAMES))).split("\n\n", 1)[1]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 12, len(text))))
        text = (
            text[:start]
            + data.draw(st.text(max_size=6) | st.sampled_from(["&a ", "*a", "!!x ", "9" * 5000, "- "]))
            + text[stop:]
        )
    with contextlib.suppress(RecipeError):
        recipe = parse_recipe(text, "mutant.yaml")
        assert load_recipe(to_data(recipe)) == recipe


KEYS = ["insert", "at", "where", "module", "kernel", "not", "has", "stages", "rules", "to"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(KEYS), inner, max_size=3
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_json)
def test_no_data_makes_a_recipe_raise_anything_else(value):
    for data in (
        {"name": value, "rules": []},
        {"rules": value},
        {"rules": [value]},
        {"rules": [{"at": "conv", "replace": value, "where": value}]},
    ):
        with contextlib.suppress(RecipeError):
            load_recipe(data)


# Conditions on sites

SITE = SiteFacts(
    paths=("layer4.0", "layer4.0.conv2"),
    types=("Bottleneck", "Module"),
    stage=4,
    stages=4,
    block=0,
    blocks=3,
    channels=512,
    kernel=(3, 3),
    stride=2,
    has=frozenset({"residual add", "projection"}),
)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({}, None),
        ({"stages": "last"}, None),
        ({"stages": 3}, "in stage 4, not in 3"),
        ({"blocks": "1:"}, "in block 0 of its stage, not in 1:"),
        ({"type": ["Basic*", "Bottle*"]}, None),
        ({"type": "Basic*"}, "in a Bottleneck, not in a Basic*"),
        ({"path": "layer4.*.conv2"}, None),
        ({"path": "layer3.*"}, "its path does not match layer3.*"),
        ({"channels": ">=512"}, None),
        ({"channels": "<512"}, "channels 512, not <512"),
        ({"kernel": "5,7"}, "kernel 3x3, not 5,7"),
        ({"stride": 1}, "stride 2, not 1"),
        ({"has": ["residual add", "projection"]}, None),
        ({"has": ["residual add", "socket"]}, "has no socket"),
        ({"not": {"type": "Bottleneck"}}, "left out by where.not: type Bottleneck"),
        ({"not": {"type": "Bottleneck", "channels": "<512"}}, None),
    ],
)
def test_why_a_site_is_not_meant(where, reason):
    assert Where.model_validate(where).mismatch(SITE) == reason


def test_a_site_outside_all_stages():
    assert Where().mismatch(SiteFacts()) is None
    assert Where(stages="1").mismatch(SiteFacts(stages=4)) == "outside all stages, not in 1"
    with pytest.raises(InputError, match="this model has stages 1-4"):
        Where(stages="7").mismatch(SITE)


# Overrides


def node(recipe, index=0):
    return {"module": recipe.rules[index].node.module, **recipe.rules[index].node.options}


def test_stages_take_the_place_of_every_rules_own():
    recipe = override(load_recipe("mobilenetv3"), stages="2-3")
    assert [rule.where.stages for rule in recipe.rules] == ["2-3"] * 3
    assert recipe.rules[1].where.channels.text == ">240"
    assert override(load_recipe("standard"), stages=4).rules[0].where.stages == "4"


def test_another_module_keeps_only_what_it_knows():
    regnety = load_recipe("regnety")
    assert node(override(regnety, module="eca")) == {"module": "eca"}
    assert node(override(regnety, module="ese")) == {"module": "ese"}
    cbam = node(override(regnety, module="cbam"))
    assert cbam == {"module": "cbam", "reduction": 4, "reduce_from": "block input", "rd_divisor": 1}
    assert node(override(load_recipe("mbconv"), module="SE_torchvision"))["module"] == "se_torchvision"
    assert node(override(load_recipe("swap-attention"), module="cbam")) == {"module": "cbam"}


def test_an_option_goes_to_every_rule_that_knows_it():
    recipe = override(load_recipe("mobilenetv3"), options={"reduction": 2, "init": "identity"})
    assert {(rule.node.options["reduction"], rule.node.options["init"]) for rule in recipe.rules} == {(2, "identity")}
    mixed = load_recipe(yaml_reader.read(RULE[:-1] + ", {insert: {module: eca}, at: end of stage}]"))
    mixed = override(mixed, options={"reduction": 2})
    assert node(mixed, 0) == {"module": "se", "reduction": 2}
    assert node(mixed, 1) == {"module": "eca"}


def test_options_of_structural_edits():
    assert override(load_recipe("shufflenet-k5"), options={"kernel": 7}).rules[0].replace.kernel == 7
    assert override(load_recipe("shufflenet-csp"), options={"split": 0.25}).rules[0].rewire.split == 0.25


def test_an_override_leaves_the_recipe_alone():
    recipe = load_recipe("standard")
    before = to_data(recipe)
    override(recipe, stages="1", module="ge", options={"extent": 2})
    assert to_data(recipe) == before
    assert override(recipe) == recipe


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("standard", {"options": {"reductoin": 8}}, 'unknown option "reductoin"; did you mean "reduction"'),
        ("standard", {"options": {"kernel": 8}}, 'unknown option "kernel"'),
        ("standard", {"module": "eca", "options": {"reduction": 8}}, 'module "eca": unknown option "reduction"'),
        ("standard", {"options": {"reduction": "x"}}, "reduction: "),
        ("standard", {"options": {"reduction": object()}}, "reduction: "),
        ("standard", {"options": {"init": "zero"}}, "init: "),
        ("standard", {"options": {"name": "a b"}}, "cannot be the name of a module"),
        ("standard", {"module": "ecca"}, 'unknown module "ecca"; did you mean'),
        ("standard", {"stages": "five"}, 'stages: "five" selects no stages'),
        ("strip-attention", {"module": "eca"}, 'recipe "strip-attention" inserts no node'),
        ("strip-attention", {"options": {"reduction": 2}}, 'unknown option "reduction"'),
        ("shufflenet-k5", {"options": {"kernel": 6}}, "6 is even"),
        ("shufflenet-k5", {"options": {"activation": "silu"}}, 'unknown option "activation"'),
    ],
)
def test_overrides_that_will_not_do(name, changes, message):
    with pytest.raises(InputError) as caught:
        override(load_recipe(name), **changes)
    assert message in str(caught.value)


def test_one_message_for_one_wrong_option_of_three_rules():
    with pytest.raises(RecipeError) as caught:
        override(load_recipe("mobilenetv3"), options={"gate": "sigmod"})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reduction=8", ("reduction", 8)),
        ("gate=hard_sigmoid", ("gate", "hard_sigmoid")),
        ("reduce_from=block input", ("reduce_from", "block input")),
        ("bias=false", ("bias", False)),
        ("squeeze=avg+max", ("squeeze", "avg+max")),
        ("size=[3, 5]", ("size", [3, 5])),
        ("x=", ("x", "")),
        ("x=none", ("x", "none")),
        ("x=a=b", ("x", "a=b")),
        ("x=a: b", ("x", "a: b")),
        ("x=[1", ("x", "[1")),
        ("x=*a", ("x", "*a")),
    ],
)
def test_settings_from_the_command_line(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["", "reduction", "=8", " = 8"])
def test_settings_that_set_nothing(text):
    with pytest.raises(InputError, match="write KEY=VALUE"):
        parse_setting(text)
