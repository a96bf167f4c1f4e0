"""The search: sites ranked by one training, a knapsack, a check; on a network of which the useful sites are known."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Residual
from torch import nn

import sesurgery
from sesurgery.recipe.recipe import load_recipe
from sesurgery.selection.choice import chosen
from sesurgery.selection.search import narrowed
from sesurgery.selection.switches import Switches


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.one, self.two, self.three = Residual(8), Residual(8), Residual(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.one(self.stem(x))))


SIZE = "3,16,16"


def run(model: nn.Module, trial: object) -> float:
    """Some steps; the result favours a layer in ``two``."""
    model.train()
    for _ in range(8):
        model(torch.randn(2, 3, 16, 16))
    return float(hasattr(model.two, "se"))


def validate(model: nn.Module, trial: object) -> float:
    """Only the layers of ``two`` (much) and ``three`` (a little) are of use; ``one`` harms."""
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    used = set()
    hooks = [
        getattr(model, name).se.register_forward_hook(
            lambda module, args, output, name=name: used.add(name) if not torch.equal(output, args[0]) else None
        )
        for name in ("one", "two", "three")
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return 3.0 * ("two" in used) + 1.0 * ("three" in used) - 2.0 * ("one" in used) + 0.1 * trial.seed


def searched(folder: Path, **asked: object):
    return sesurgery.search(
        Net(), "standard", train=run, validate=validate, folder=folder, input_size=SIZE, **{"seeds": 0, **asked}
    )


def test_it_takes_what_is_worth_most_within_the_budget(tmp_path: Path) -> None:
    plan = sesurgery.plan(Net(), "standard", input_size=SIZE)
    each = plan.edits[0].params
    wide = searched(tmp_path, budget={"params": f"+{3 * each / 1000}k"})
    assert set(wide.chosen) == {"two.se", "three.se"}, "what harms is left out"
    narrow = searched(tmp_path, budget={"params": f"+{1.5 * each / 1000}k"})
    assert narrow.chosen == ("two.se",)
    assert list(narrow.values) == ["two.se", "three.se", "one.se"]
    value = narrow.values["two.se"]
    assert value.without == pytest.approx(3.0)
    assert value.alone == pytest.approx(3.0)
    assert value.noise == pytest.approx(0.0, abs=1e-6)


def test_the_result_is_an_ordinary_recipe(tmp_path: Path) -> None:
    selection = searched(tmp_path, budget="params=+100%")
    (tmp_path / "chosen.yaml").write_text(selection.recipe_text())
    plan = sesurgery.plan(Net(), tmp_path / "chosen.yaml", input_size=SIZE)
    assert tuple(edit.path for edit in plan.edits) == selection.chosen
    assert "# * two.se" in selection.recipe_text()


def test_the_check_trains_the_choice_beside_random_subsets(tmp_path: Path) -> None:
    each = sesurgery.plan(Net(), "standard", input_size=SIZE).edits[0].params
    selection = searched(tmp_path, budget={"params": f"+{1.5 * each / 1000}k"}, seeds=2)
    assert selection.check is not None
    rows = {row.name: row for row in selection.check}
    assert {"chosen", "all-sites"} < set(rows)
    assert any(name.startswith("random") for name in rows)
    assert rows["chosen"].evidence.gain == 1.0
    for name, row in rows.items():
        if name.startswith("random"):
            assert row.cost.params == rows["chosen"].cost.params
            assert row.evidence.gain == 0.0


def test_switches_hand_on_what_is_off_and_go_when_done() -> None:
    model = sesurgery.apply(Net(), "standard", input_size=SIZE).model
    original = Net()
    original.load_state_dict({key: value for key, value in model.state_dict().items() if ".se." not in key})
    model.eval(), original.eval()
    x = torch.randn(2, 3, 16, 16)
    before = model(x)
    with Switches(model, {"one.se", "two.se", "three.se"}, 0).installed() as switches:
        switches.on = set()
        assert torch.equal(model(x), original(x))
        switches.on = {"one.se", "two.se", "three.se"}
        assert torch.equal(model(x), before)
        model.train()
        seen = set()
        for _ in range(120):
            model(x)
            seen.add(frozenset(switches.on))
        assert len(seen) == 8, "every subset of three comes up"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_the_best_of_all_subsets(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values, params, macs = draw.normal(size=8), draw.integers(1, 9, 8), draw.integers(1, 9, 8)
    limits = {"params": 15.0, "macs": 12.0}
    best = 0.0
    for bits in product((0, 1), repeat=8):
        picked = np.flatnonzero(bits)
        if params[picked].sum() <= 15 and macs[picked].sum() <= 12:
            best = max(best, values[picked].sum())
    indices = chosen(values.tolist(), {"params": params.tolist(), "macs": macs.tolist()}, limits)
    assert values[indices].sum() == pytest.approx(best)
    assert params[indices].sum() <= 15
    assert macs[indices].sum() <= 12


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"budget": ""}, "needs a budget"),
        ({"budget": "latency=+2%"}, "latency of a single site is not known"),
        ({"budget": "params=+0%"}, "within the budget"),
        ({"budget": "params=+2%", "validate": lambda model, trial: "good"}, "gives a str"),
        (
            {"budget": "params=+2%", "validate": lambda model, trial: 1.0},
            "no better with any single layer.*judge on more data",
        ),
        ({"budget": "params=+2%", "recipe": "backbone-nope"}, "unknown recipe"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, asked: dict[str, object], words: str) -> None:
    asked = {"train": run, "validate": validate, "seeds": 0, "input_size": SIZE, **asked}
    with pytest.raises(sesurgery.SurgeryError, match=words):
        sesurgery.search(Net(), asked.pop("recipe", "standard"), folder=tmp_path, **asked)


def test_sites_of_one_host_are_told_apart() -> None:
    """The names of layers depend on which sites are chosen, so that a recipe says what each follows."""
    recipe = load_recipe({"rules": [{"insert": {"module": "se"}, "at": "after conv"}]})
    edits = sesurgery.plan(Net(), recipe, input_size=SIZE).edits
    assert len(edits) == 6
    for indices in ([0], [1], [1, 2], [0, 3, 5]):
        kept = sesurgery.plan(Net(), narrowed(recipe, edits, indices, "some"), input_size=SIZE).edits
        wanted = [(edits[index].host, edits[index].change.value) for index in indices]
        assert [(edit.host, edit.change.value) for edit in kept] == wanted
