"""Options of layers: all that is wrong with them, told by place."""

from __future__ import annotations

from typing import Any

import pytest
from ports import MAP

from sesurgery.attention import build, check_options, refusal
from sesurgery.errors import InputError

BAD_OPTIONS = [
    ("se", {"reducton": 8}, 'did you mean "reduction"'),
    ("se", {"reduction": 0}, "0 is not a number from"),
    ("se", {"reduction": -4}, "-4 is not a number"),
    ("se", {"reduction": float("nan")}, "nan is not a number"),
    ("se", {"reduction": float("inf")}, "inf is not a number"),
    ("se", {"reduction": "16"}, '"16" is not a number'),
    ("se", {"reduction": True}, "True is not a number"),
    ("se", {"reduction": None}, "None is not a number"),
    ("se", {"rd_channels": 0}, "not a whole number from 1"),
    ("se", {"rd_channels": 2.5}, "2.5 is not a whole number"),
    ("se", {"rd_channels": 10**9}, "not a whole number from 1 to 65536"),
    ("se", {"rd_channels": 10**9999}, "more than 60 digits"),
    ("se", {"rd_divisor": 0}, "not a whole number from 1"),
    ("se", {"gate": "sigmod"}, 'did you mean "sigmoid"'),
    ("se", {"gate": ["sigmoid"]}, "expected"),
    ("se", {"squeeze": "average"}, 'did you mean "avg"'),
    ("se", {"act": "leeky_relu"}, 'did you mean "leaky_relu"'),
    ("se", {"act": 7}, "7 is not known"),
    ("se", {"init": "zero"}, 'expected "paper", "near" or "identity"'),
    ("se", {"bias": 1}, "1 is neither true nor false"),
    ("se", {"reduce_from": "blok input"}, 'did you mean "block input"'),
    ("ese", {"squeeze": "max"}, "is not known"),
    ("eca", {"reduction": 4}, 'unknown option of module "eca"'),
    ("eca", {"reduce_from": "site"}, "unknown option"),
    ("cbam", {"kernel_size": 4}, "not an odd whole number"),
    ("sk", {"kernel_size": 4}, "is not known"),
    ("se", {3: 4}, "unknown option"),
]


@pytest.mark.parametrize(("name", "options", "text"), BAD_OPTIONS)
def test_bad_options_are_told_by_place(name: str, options: dict[Any, Any], text: str) -> None:
    (problem,) = check_options(name, options, where="rules[0].insert")
    assert problem.startswith(f"rules[0].insert.{next(iter(options))}: ")
    assert text in problem
    for function in (build, refusal):
        with pytest.raises(InputError):
            function(name, MAP, options)


def test_all_problems_at_once() -> None:
    assert len(check_options("se", {"reducton": 8, "gate": "x", "bias": "no"})) == 3
    nothing = {"rd_channels": None, "act_slope": None, "init": None}
    assert check_options("se", {"reduction": 2.5, "reduce_from": "block input", **nothing}) == []
    assert refusal("se", MAP, {"reduction": 2.5, "reduce_from": "block input", **nothing}) is None
    assert 'did you mean "cbam"' in check_options("cbma", {}, where="rules[1]")[0]
