"""Recipes that are refused: every mistake with its place, in one short message."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sesurgery.errors import RecipeError
from sesurgery.recipe import recipe as recipes
from sesurgery.recipe import safe_yaml as yaml_reader
from sesurgery.recipe.recipe import load_recipe, parse_recipe, to_data

NAMES = recipes.recipe_names()
RULE = "rules: [{insert: {module: se}, at: before residual add}]"


def refused(text, source="mine.yaml") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source)
    return caught.value


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
    "rules: [{replace: {}, at: conv}]": "needs one of kernel, dilation, activation, norm, module, stride; none given",
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
