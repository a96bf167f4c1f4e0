"""What ``inspect`` says that recipes would add is what they add."""

from __future__ import annotations

import json

import pytest
from networks import TOYS
from typer.testing import CliRunner

import sesurgery
from sesurgery.cli.app import app
from sesurgery.recipe.recipe import recipe_names


@pytest.mark.parametrize("toy", ["shufflenet", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_what_each_recipe_would_add_is_what_it_adds(toy: str) -> None:
    model, example = TOYS[toy].model(), TOYS[toy].image()
    rows = {row.recipe: row for row in sesurgery.inspect(model, example_input=example, recipes=True).recipe_costs}
    assert set(rows) <= set(recipe_names())
    for name in recipe_names():
        try:
            plan = sesurgery.plan(model, name, example_input=example)
        except sesurgery.SurgeryError:
            assert name not in rows
            continue
        assert plan.before is not None
        assert plan.after is not None
        added = (plan.after.params - plan.before.params, plan.after.macs - plan.before.macs)
        assert (rows[name].edits, rows[name].params, rows[name].macs) == (len(plan.edits), *added), name


def test_the_command_shows_them_when_asked() -> None:
    data = json.loads(CliRunner().invoke(app, "inspect resnet18 --recipes --json".split()).stdout)
    row = next(row for row in data["recipe_costs"] if row["recipe"] == "standard")
    assert row == {"recipe": "standard", "edits": 8, "params": 90_112, "macs": 88_064}
    assert json.loads(CliRunner().invoke(app, "inspect resnet18 --json".split()).stdout)["recipe_costs"] == []
