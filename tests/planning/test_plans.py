"""A plan as text: read back equal, and checked down to its inner parts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sesurgery.plans import (
    AppendBehind,
    AttentionLayer,
    BypassGate,
    Change,
    Cost,
    CrossStage,
    CustomLayer,
    Diff,
    Edit,
    FillSocket,
    Identity,
    OtherActivation,
    OtherConv,
    OtherNorm,
    Plan,
    RewriteForward,
    SelectiveConv,
    Skip,
    Swap,
    SwapChild,
    WithoutNorm,
)

LAYER = AttentionLayer("se", {"reduction": 8, "act": "relu", "slope": 0.5, "rd_channels": None}, (1, 16, 8, 8), 1)
SUBSTITUTES = (
    LAYER,
    Identity(),
    WithoutNorm(),
    OtherConv((5, 5), (1, 1), True, False),
    OtherActivation("silu"),
    OtherNorm("group", (1, 16, 8, 8), 1),
    SelectiveConv({"reduction": 16}),
    CrossStage((8, 8), 8, ("b.1", "b.2")),
    CustomLayer("dropout", {"p": 0.5}),
)
CHANGES: tuple[Change, ...] = (
    FillSocket(LAYER, "bn", (), 0),
    RewriteForward(LAYER, "bn", ("add",), 1),
    AppendBehind(LAYER),
    SwapChild(tuple(Swap(f"b.{place}", "0", new) for place, new in enumerate(SUBSTITUTES))),
    BypassGate("mul"),
    BypassGate("mul", LAYER),
)
PLAN = Plan(
    "net",
    {"name": "mine", "rules": []},
    tuple(Edit("insert", "a.se", "end of block", "a", 1, None, 16, "se", change) for change in CHANGES),
    (Skip("b", "a reason"),),
    (Diff(("a",), "Block", "x", "y"),),
    2,
    Cost(1, 2, 3, {"conv": 4}, {"add": 5}, 6),
)


def test_every_kind_of_change_comes_back_from_json_equal() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_dict(dataclasses.asdict(PLAN)) == PLAN
    assert [edit.route for edit in PLAN.edits] == ["socket", "source", "behind", "child", "source", "source"]


def first_change(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plan: plan["edits"][0]["change"].update(fields)


def swap(place: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plan: plan["edits"][3]["change"]["swaps"][place]["new"].update(fields)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda plan: plan.update(more=1), r"^more: Unexpected keyword argument$"),
    "unknown key of an edit": (lambda plan: plan["edits"][2].update(means="graph"), r"^edits\.2\.means: Unexpected"),
    "unknown key of a layer": (lambda plan: plan["edits"][2]["change"]["layer"].update(x=1), r"layer\.x: Unexpected"),
    "missing key": (lambda plan: plan["edits"][0].pop("path"), r"^edits\.0\.path: Field required$"),
    "a number as text": (first_change(ordinal="1"), r"change\.fill socket\.ordinal: .*integer"),
    "a truth for a number": (first_change(ordinal=True), r"ordinal: .*integer"),
    "a fraction for a number": (first_change(ordinal=1.5), r"ordinal: .*integer"),
    "a text for a list": (first_change(users="add"), r"users: .*array"),
    "no layer": (first_change(layer=None), r"layer: .*object"),
    "a change of no kind": (lambda plan: plan["edits"][0]["change"].pop("kind"), r"^edits\.0\.change: .*'kind'$"),
    "a change of another kind": (first_change(kind="exec"), r"^edits\.0\.change: .*'exec'"),
    "a substitute of another kind": (swap(0, kind="exec"), r"swaps\.0\.new: .*'exec'"),
    "a kernel of text": (swap(3, kernel=["5", 5]), r"new\.conv\.kernel\.0: .*integer"),
    "three widths": (swap(7, widths=[1, 2, 3]), r"new\.csp\.widths: "),
    "edits that are none": (lambda plan: plan.update(edits=[1, 2]), r"^edits\.0: .*object \(and 1 more\)$"),
    "a cost of text": (lambda plan: plan["before"].update(macs="2"), r"^before\.macs: .*integer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_with_a_wrong_part_is_refused_in_one_line(name: str) -> None:
    change, message = WRONG[name]
    data = json.loads(PLAN.to_json())
    change(data)
    for read in (lambda: Plan.from_dict(data), lambda: Plan.from_json(json.dumps(data))):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"model": 1}'])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Plan.from_json(text)


def test_plans_are_imported_without_torch_and_pydantic() -> None:
    code = "import sys, sesurgery.plans; sys.exit(bool({'torch', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
