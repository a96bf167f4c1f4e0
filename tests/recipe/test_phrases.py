"""The phrases of ``at:``, in many spellings."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sesurgery.errors import InputError
from sesurgery.recipe.phrases import PHRASES, At, parse_at, register_phrase


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("before residual add", At("before residual add")),
        ("Before the residual add", At("before residual add")),
        ("at the end of each block", At("end of block")),
        ("after conv", At("after conv")),
        ("after every conv", At("after conv")),
        ("after conv 1", At("after conv", 1)),
        ("after conv (2)", At("after conv", 2)),
        ("after first conv", At("after conv", 1)),
        ("after 1st conv", At("after conv", 1)),
        ("after the block's first conv", At("after conv", 1)),
        ("after last conv", At("after conv", -1)),
        ("after conv -1", At("after conv", -1)),
        ("after the last 1x1 conv", At("after pointwise conv", -1)),
        ("last pointwise conv", At("pointwise conv", -1)),
        ("first conv", At("conv", 1)),
        ("depthwise convs", At("depthwise conv")),
        ("attention", At("attention")),
        ("stage", At("stage")),
    ],
)
def test_phrases_in_many_spellings(text, expected):
    assert parse_at(text) == expected
    assert parse_at(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("before residul add", 'at: "before residul add"; did you mean "before residual add"?'),
        ("after last cnov", 'at: "after last cnov"; did you mean "after conv -1"?'),
        ("second end of block", '"end of block" takes no number; write "end of block"'),
        ("after conv 0", 'count from 1 or, from the end, -1: "after conv 1"'),
        ("after first last conv", "did you mean"),
        ("somewhere", "it is one of: before residual add, after residual add"),
        ("", "it is one of"),
        (3, "3 is no phrase"),
        ("x" * 10_000, "it is one of"),
    ],
)
def test_phrases_that_will_not_do(text, message):
    with pytest.raises(InputError) as caught:
        parse_at(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


@given(st.text(max_size=40))
def test_any_text_is_a_phrase_or_an_input_error(text):
    with contextlib.suppress(InputError):
        assert parse_at(text).name in PHRASES


def test_a_phrase_of_ones_own(monkeypatch):
    monkeypatch.setattr(PHRASES, "_entries", dict(PHRASES._entries))
    register_phrase("before the gate", ordinal=True)
    assert parse_at("before last gate") == At("before the gate", -1)
    assert parse_at("before gate").role == "place"
    with pytest.raises(InputError, match="already there"):
        register_phrase("before gate", role="conv")
    with pytest.raises(InputError, match="cannot be a phrase"):
        register_phrase("the", role="place")
