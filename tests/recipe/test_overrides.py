"""What stages, another module, options and settings change in a recipe."""

from __future__ import annotations

import pytest

from sesurgery.errors import InputError, RecipeError
from sesurgery.recipe import safe_yaml as yaml_reader
from sesurgery.recipe.recipe import load_recipe, override, parse_setting, to_data

RULE = "rules: [{insert: {module: se}, at: before residual add}]"


def node(recipe, index=0):
    return {"module": recipe.rules[index].node.module, **recipe.rules[index].node.options}


def test_stages_take_the_place_of_every_rules_own():
    recipe = override(load_recipe("mobilenetv3"), stages="2-3")
    assert [rule.where.stages for rule in recipe.rules] == ["2-3"] * 4
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


@pytest.mark.parametrize("module", ["gca", "gc", "nl", "ecam", "scoord", "bat"])
def test_another_module_brings_its_own_default_where_the_recipe_stated_the_old_ones(module):
    assert node(override(load_recipe("standard"), module=module)) == {"module": module}
    assert node(override(load_recipe("standard"), module=module, options={"reduction": 2}))["reduction"] == 2


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
