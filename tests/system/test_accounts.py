"""Every convolution, norm, activation and residual sum of a family's model is edited or listed."""

from __future__ import annotations

from typing import Any

import pytest
from accounts import account
from families import FAMILIES, Family
from slow import marked_slow

import sesurgery

RULES: list[dict[str, Any]] = [
    {"replace": {"kernel": 5}, "at": "conv"},
    {"replace": {"norm": "group"}, "at": "norm"},
    {"replace": {"activation": "mish"}, "at": "activation"},
    {"insert": {"module": "se", "init": "identity"}, "at": "after residual add"},
]
QUICK = {"resnet", "mobilenetv3", "swin", "densenet"}


@pytest.mark.parametrize("family", marked_slow(FAMILIES, lambda family: family.name in QUICK))
def test_everything_is_edited_or_listed(family: Family) -> None:
    model, args = family.create(), family.inputs(1)
    plan = sesurgery.plan(model, {"rules": RULES}, example_input=args)
    reported: dict[str, list[str]] = {str(rule["at"]): [] for rule in RULES}
    for edit in plan.edits:
        reported[edit.at].append(edit.path)
    for skip in plan.skipped:
        reported[skip.at].append(skip.path)
    sums = reported.pop("after residual add")
    there = account(model, args)
    assert sum(map(there.total, reported)) > 10
    assert there.missing(reported) == []
    assert there.missing(dict.fromkeys(reported, ())) != []
    merges = sesurgery.inspect(model, example_input=args).merges
    residual = [merge.path for merge in merges if merge.kind in ("identity", "projected")]
    assert len(sums) >= len(residual)
