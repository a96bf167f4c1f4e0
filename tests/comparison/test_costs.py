"""The costs of a grid: exactly those of ``plan``, from one recording of the model."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest
import torch
from networks import Residual
from torch import nn

import sesurgery
from sesurgery.comparison.rows import as_data
from sesurgery.planning import insertion_costs, rehearsal

MODEL = "timm:test_resnet"
SIZE = "3,64,64"


def compared(recipes: object = "standard,pre", **asked: object):
    return sesurgery.compare(MODEL, recipes, input_size=SIZE, **asked)


@pytest.mark.parametrize("stages", ["all", "1", "2-3", "1+4", "last"])
@pytest.mark.parametrize("recipe", ["standard", "pre", "post", "identity", "se-3x3", "backbone-end", "plain"])
def test_costs_are_those_of_a_plan(recipe: str, stages: str) -> None:
    (row,) = compared(recipe, stages=stages)
    try:
        plan = sesurgery.plan(MODEL, recipe, stages=stages.replace("+", ","), input_size=SIZE)
    except sesurgery.NothingMatchedError:
        assert row.reason
        return
    assert row.edits == len(plan.edits)
    assert row.cost == plan.after


def test_a_structural_recipe_costs_what_its_plan_says() -> None:
    (row,) = compared("shufflenet-k5", stages="all")
    assert row.cost is None
    (row,) = sesurgery.compare("timm:test_efficientnet", "strip-attention", input_size="3,64,64")
    plan = sesurgery.plan("timm:test_efficientnet", "strip-attention", input_size="3,64,64")
    assert row.cost == plan.after
    assert row.cost.params < row.measure("params") + 1


def test_each_is_a_candidate_a_stage_and_subsets_are_all_sets() -> None:
    assert [row.stages for row in compared("standard", stages="each,all", sort="none")] == ["1", "2", "3", "4", "all"]
    rows = compared("standard", stages="subsets", sort="none")
    assert len(rows) == 15
    assert rows[-1].stages == "1,2,3,4"


def test_equal_candidates_are_one_row() -> None:
    rows = compared("standard", stages="all,1-4", modules="se,eca", options={"reduction": [8, 16]}, sort="none")
    names = {row.name: row.also for row in rows}
    assert len(rows) == 3  # eca knows no reduction, and all is 1-4
    assert names["standard se reduction=8, stages all"] == ("standard se reduction=8, stages 1-4",)
    assert len(names["standard eca reduction=8, stages all"]) == 3


def test_recipes_of_one_name_are_told_apart() -> None:
    rule = {"at": "before residual add"}
    recipes = [{"name": "mine", "rules": [{"insert": {"module": module}, **rule}]} for module in ("se", "eca")]
    rows = compared(recipes, sort="none")
    wanted = [sesurgery.plan(MODEL, recipe, input_size=SIZE).after for recipe in recipes]
    assert [row.cost for row in rows] == wanted
    assert wanted[0] != wanted[1]


def test_insertions_add_up_over_stages() -> None:
    rows = {row.stages: row for row in compared("standard", stages="each,all")}
    base = sesurgery.plan(MODEL, "standard", input_size=SIZE).before
    assert base is not None
    more = sum(rows[stage].cost.params - base.params for stage in "1234")
    assert rows["all"].cost.params - base.params == more


def test_many_candidates_need_few_forwards_and_cost_what_plans_say(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[object] = []
    monkeypatch.setattr(
        insertion_costs, "cost_with", lambda *asked: counted.append(asked) or rehearsal.cost_with(*asked)
    )
    options = {"reduction": [4, 8]}
    rows = compared("pre,post", stages="subsets", modules="se,ge,splat", options=options)
    assert len(rows) == 180
    assert len(counted) <= 30
    for row in random.Random(0).sample(list(rows), 8):
        assert sesurgery.plan(MODEL, row.recipe_data, input_size=SIZE).after == row.cost, row.name


class Shared(nn.Module):
    """A block that runs twice, and a sum whose sides nobody keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), Residual(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.block(self.block(self.stem(x))) + 1).mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 4])
def test_what_does_not_add_up_is_counted(batch: int) -> None:
    """A block that runs twice has one layer, which costs twice; a batch is shared out among its samples."""
    x = torch.randn(batch, 3, 12, 12)
    rows = sesurgery.compare(Shared(), "standard,pre,post", modules="se,eca,simam", example_input=x)
    assert len(rows) == 9
    for row in rows:
        assert sesurgery.plan(Shared(), row.recipe_data, example_input=x).after == row.cost, row.name


def test_rows_are_sorted_and_the_best_are_marked() -> None:
    rows = list(compared("standard", stages="each,all", options={"reduction": [4, 16]}))
    assert [row.cost.params for row in rows] == sorted(row.cost.params for row in rows)
    costs = [cost for cost in ("params", "macs", "activation_bytes") if rows[0].measure(cost) > 0]
    for row in rows:
        better = [
            other
            for other in rows
            if other is not row
            and all(other.measure(cost) <= row.measure(cost) for cost in costs)
            and any(other.measure(cost) < row.measure(cost) for cost in costs)
        ]
        assert row.pareto is not bool(better), row.name


def test_a_budget_greys_and_says_by_how_much() -> None:
    rows = compared("standard", stages="each,all", budget="params=+1%")
    base = sesurgery.plan(MODEL, "standard", input_size=SIZE).before
    assert base is not None
    for row in rows:
        share = row.cost.params / base.params - 1
        assert row.within is (share <= 0.01)
        if not row.within:
            assert row.over["params"] == pytest.approx(share - 0.01)
    assert "over budget" in str(rows)
    amount = compared("standard", stages="each,all", budget={"params": f"+{base.params // 100000}k"})
    assert {row.name for row in amount if row.within} <= {row.name for row in rows if row.within}


def test_exports_say_the_same() -> None:
    rows = compared("standard", stages="each,all")
    data = json.loads(json.dumps(as_data(rows)))["rows"]
    table = list(csv.DictReader(io.StringIO(rows.to_csv())))
    frame = rows.to_pandas()
    assert [item["name"] for item in data] == [item["name"] for item in table] == list(frame["name"])
    assert [item["params"] for item in data] == [int(item["params"]) for item in table]
    assert data[0]["name"] == "unmodified"
    assert "stages 2" in rows._repr_html_()


def test_a_row_is_an_ordinary_recipe() -> None:
    row = next(row for row in compared("standard", stages="2", options={"reduction": [8]}))
    surgery = sesurgery.apply(MODEL, row.recipe_data, input_size=SIZE)
    assert surgery.after == row.cost


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"recipes": "standart"}, 'unknown recipe "standart"; did you mean'),
        ({"recipes": ""}, "nothing to compare"),
        ({"stages": "each,x"}, '"x" selects no stages'),
        ({"options": {"reductoin": [4]}}, 'unknown option "reductoin"'),
        ({"options": {"reduction": []}}, "no value to try"),
        ({"modules": "sse"}, '"sse"'),
        ({"budget": "parms=+5%"}, 'unknown measure "parms"; did you mean "params"'),
        ({"budget": "params=5%"}, '"5%" is no limit'),
        ({"budget": "params=lots"}, '"lots" is no limit'),
        ({"sort": "speed"}, 'unknown order "speed"'),
    ],
)
def test_bad_input_says_what_to_do(asked: dict[str, object], words: str) -> None:
    with pytest.raises(sesurgery.InputError) as error:
        compared(asked.pop("recipes", "standard"), **asked)
    assert words in str(error.value)


def test_a_stage_that_is_not_there_is_a_reason() -> None:
    (row,) = compared("standard", stages="9")
    assert row.cost is None
    assert "9" in row.reason


def test_labels_of_a_picture_do_not_overlap(tmp_path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from sesurgery.comparison.picture import draw, label

    figure = Figure(figsize=(6, 4))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [(x / 7, (x * 5 % 7) / 7) for x in range(30)]
    for point in points:
        axes.plot(*point, "o")
    drawn = label(figure, axes, [f"a long name {index}" for index in range(30)], points, [False] * 30)
    boxes = [words.get_window_extent(canvas.get_renderer()) for words in drawn]
    assert len(boxes) > 5
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    draw(compared("standard", stages="each,all"), tmp_path / "a.svg")
    assert "stages 2" in (tmp_path / "a.svg").read_text()
