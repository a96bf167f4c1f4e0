"""The little languages of ``--stages`` and ``where:``, against brute force."""

from __future__ import annotations

import contextlib
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sesurgery.errors import InputError
from sesurgery.recipe.selectors import (
    SiteFacts,
    check_stages_syntax,
    parse_blocks,
    parse_compare,
    parse_stages,
    select_blocks,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", {4}),
        (4, {4}),
        ("1,3", {1, 3}),
        ([1, 3], {1, 3}),
        ("2-4", {2, 3, 4}),
        ("2 - 4", {2, 3, 4}),
        ("2-", {2, 3, 4}),
        ("-1", {4}),
        (-2, {3}),
        ("last", {4}),
        ("LAST2", {3, 4}),
        ("first", {1}),
        ("first2", {1, 2}),
        ("all", {1, 2, 3, 4}),
        ("1,last", {1, 4}),
    ],
)
def test_stage_forms_of_a_model_with_four(text, expected):
    assert parse_stages(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", 'stages: stage "5" is out of range; this model has stages 1-4'),
        ("-5", 'stage "-5" is out of range; this model has stages 1-4'),
        ("2-9", "this model has stages 1-4"),
        ("last5", "this model has stages 1-4"),
        ("0", "stages count from 1"),
        ("4-2", 'stages: "4-2" runs backwards; write 2-4'),
        ("four", 'stages: "four" selects no stages; use a form such as 4'),
        ("1:3", "use a form such as"),
        ("", "selects nothing"),
        ("1,,2", "selects nothing"),
        ("last0", "stages count from 1"),
        ("9" * 5000, "selects no stages"),
        pytest.param(10**5000, "more than nine digits", id="huge"),
        (True, "bool is neither a number nor text"),
        (1.5, "1.5 is neither a number nor text"),
        (None, "None is neither a number nor text"),
        ([], "selects nothing"),
        ("٣", "selects no stages"),
    ],
)
def test_stages_that_will_not_do(text, message):
    with pytest.raises(InputError) as caught:
        parse_stages(text, 4)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_model_without_stages_says_so():
    assert parse_stages("all", 0) == frozenset()
    with pytest.raises(InputError, match="this model has no stages"):
        parse_stages("last", 0)


@given(first=st.integers(1, 12), last=st.integers(1, 12), count=st.integers(1, 10))
def test_stage_ranges_against_brute_force(first, last, count):
    if first <= last <= count:
        assert parse_stages(f"{first}-{last}", count) == {n for n in range(1, count + 1) if first <= n <= last}
        assert parse_stages(f"{first}-", count) == {n for n in range(1, count + 1) if n >= first}
        assert parse_stages(f"last{last}", count) == set(sorted(range(1, count + 1))[-last:])
        assert parse_stages(-first, count) == {range(1, count + 1)[-first]}
    else:
        with pytest.raises(InputError):
            parse_stages(f"{first}-{last}", count)


@given(st.text(max_size=30) | st.integers() | st.lists(st.integers() | st.text(max_size=5), max_size=5))
def test_whatever_is_asked_for_only_input_errors_come_back(value):
    for parse in (lambda v: parse_stages(v, 4), lambda v: select_blocks(v, 4), parse_compare, check_stages_syntax):
        with contextlib.suppress(InputError):
            parse(value)


@given(parts=st.lists(st.sampled_from(["all", "2", "-1", "1-3", "2-", "last2", "first"]), min_size=1, max_size=4))
def test_a_canonical_spelling_selects_the_same(parts):
    text = " , ".join(parts)
    assert parse_stages(check_stages_syntax(text), 5) == parse_stages(text, 5)


_bound = st.none() | st.integers(-12, 12)


@given(_bound, _bound, st.none() | st.integers(-4, 4).filter(bool), st.integers(0, 10))
def test_block_slices_are_pythons(start, stop, step, n):
    text = ":".join("" if number is None else str(number) for number in (start, stop, step))
    assert select_blocks(text, n) == set(range(n)[start:stop:step])


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("0", 3, {0}),
        (-1, 3, {2}),
        ("0,2", 3, {0, 2}),
        ([0, 2], 3, {0, 2}),
        ("7", 3, set()),
        ("first4", 3, {0, 1, 2}),
        ("last", 3, {2}),
        ("last9", 3, {0, 1, 2}),
        ("all", 2, {0, 1}),
        (":1,-1", 3, {0, 2}),
    ],
)
def test_block_forms(text, n, expected):
    assert select_blocks(text, n) == expected


@pytest.mark.parametrize("text", ["::0", "a", "1-3", "", "1:2:3:4", "first0", None, 0.5])
def test_blocks_that_will_not_do(text):
    with pytest.raises(InputError, match="blocks: "):
        parse_blocks(text)


_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq, "!=": operator.ne}


@given(st.sampled_from(sorted(_SIGNS)), st.integers(0, 99), st.integers(0, 99))
def test_comparisons_against_brute_force(sign, bound, value):
    compare = parse_compare(f"{sign} {bound}")
    assert compare(value) == _SIGNS[sign](value, bound)
    assert parse_compare(compare.text) == compare


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_numbers_and_ranges_are_alternatives(numbers, low, size, value):
    compare = parse_compare([*numbers, f"{low}-{low + size}"])
    assert compare(value) == (value in numbers or value in range(low, low + size + 1))


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        (3, (3, 3), True),
        (3, (1, 7), False),
        ("1x7", (1, 7), True),
        ("1x7", (7, 1), False),
        ("3,1x7", (1, 7), True),
        (">1", (1, 7), False),
        (">=64,<256", 256, False),
        (">=64,<256", 64, True),
        ("64", None, False),
    ],
)
def test_numbers_per_axis_and_unknown_ones(text, value, holds):
    assert parse_compare(text)(value) is holds


@pytest.mark.parametrize("text", ["", "x", ">", ">=a", "9-3", "3x", "1.5", -3, None, True, "~3"])
def test_comparisons_that_will_not_do(text):
    with pytest.raises(InputError, match="channels: "):
        parse_compare(text)


def test_facts_need_nothing():
    assert SiteFacts().has == frozenset()
