"""Recipes built in Python are those of files, and say likewise what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import sesurgery
from sesurgery import Insert, Recipe, Remove, Replace, Rewire, Rule, Where
from sesurgery.errors import RecipeError


def test_a_recipe_built_in_python_is_the_one_of_the_file() -> None:
    built = Recipe(
        name="mine",
        rules=[
            Rule(insert="eca", at="before residual add", where=Where(stages="3-4", not_={"blocks": "first"})),
            Rule(insert=Insert(module="se", reduction=8), at="end of block", if_present="stack"),
            Rule(replace=Replace(kernel=5), at="depthwise conv", where=Where(channels=">=128")),
            Rule(remove=Remove(), at="attention"),
            Rule(rewire=Rewire(to="csp"), at="stage"),
        ],
    )
    where = {"stages": "3-4", "not": {"blocks": "first"}}
    rules: list[dict[str, Any]] = [
        {"insert": {"module": "eca"}, "at": "before residual add", "where": where},
        {"insert": {"module": "se", "reduction": 8}, "at": "end of block", "if_present": "stack"},
        {"replace": {"kernel": 5}, "at": "depthwise conv", "where": {"channels": ">=128"}},
        {"remove": None, "at": "attention"},
        {"rewire": {"to": "csp"}, "at": "stage"},
    ]
    assert built == sesurgery.load_recipe({"name": "mine", "rules": rules})


def test_apply_takes_it() -> None:
    recipe = Recipe(rules=[Rule(insert="eca", at="before residual add", where=Where(stages=4))])
    surgery = sesurgery.apply("resnet18", recipe, device="meta")
    assert [edit.path for edit in surgery.plan.edits] == ["layer4.0.se", "layer4.1.se"]
    assert sesurgery.plan("resnet18", recipe, stages=3).edits[0].path == "layer3.0.se"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Where(stags=3), ['Where › stags: unknown key; did you mean "stages"?']),
        (
            lambda: Rule(insert="ecaa", at="before residul add"),
            ["Rule › insert.module: unknown module", 'Rule › at: "before residul add"; did you mean'],
        ),
        (
            lambda: Rule(insert="se", at="end of block", wher=Where()),
            ['Rule › wher: unknown key; did you mean "where"?'],
        ),
        (lambda: Recipe(rules=[]), ["Recipe › rules: is empty"]),
        (lambda: Insert(module="se", reducton=3), ['did you mean "reduction"']),
    ],
)
def test_what_is_wrong_is_said_as_of_a_file(build: Callable[[], object], says: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert all(words in str(caught.value) for words in says), str(caught.value)
