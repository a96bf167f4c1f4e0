"""What every wing says alike."""

from __future__ import annotations

import pytest

from sesurgery.errors import InputError, UnknownNameError
from sesurgery.words.paths import below, join, outwards, within
from sesurgery.words.registry import Registry
from sesurgery.words.text import last_line, listed, message, one_line, reason, shown


def test_a_path_and_what_is_around_it() -> None:
    assert outwards("a.b.c") == ("a.b.c", "a.b", "a", "")
    assert outwards("") == ("",)
    assert (join("a.b", "c"), join("", "c"), join("a", "")) == ("a.b.c", "c", "a")


@pytest.mark.parametrize(
    ("path", "outer", "is_below"),
    [("a.b", "a", True), ("a.b.c", "a", True), ("ab", "a", False), ("a", "a", False), ("a", "", False)],
)
def test_one_module_inside_another(path: str, outer: str, is_below: bool) -> None:
    assert below(path, outer) is is_below
    assert within(path, outer) is (is_below or path == outer)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("a\x1b[2Jb\n", "a?[2Jb?"),
        ("x" * 61, "x" * 59 + "…"),
        (3, "3"),
        (None, "None"),
    ],
)
def test_a_value_in_a_message(value: object, text: str) -> None:
    assert shown(value) == text
    assert shown(10**5000) == "a number of more than 60 digits"


def test_the_lines_of_an_error() -> None:
    error = RuntimeError("\n  the first.  \nthe last\n")
    assert message(error) == "the first."
    assert last_line(error) == "the last"
    assert one_line(error) == "the first. the last"
    assert reason(error) == "RuntimeError: the first"
    assert {message(KeyError()), last_line(KeyError()), one_line(KeyError()), reason(KeyError())} == {"KeyError"}
    assert len(reason(ValueError("x" * 1000))) == 200


def test_a_list_says_how_much_it_leaves_out() -> None:
    names = ["a", "b", "c", "d", "e"]
    assert listed(names) == "a, b, c and 2 more"
    assert listed(names[:4]) == "a, b, c, d"
    assert listed(names, 2, str.upper, "…") == "A, B … 3 more"
    assert listed([]) == ""


def test_a_registry_knows_spellings_and_origins() -> None:
    registry: Registry[int] = Registry("number", str.lower)
    registry.add("One", 1)
    registry.add("two", 2, "mine.py")
    assert (registry.find("ONE"), registry.canonical("one")) == (1, "One")
    assert (list(registry), len(registry)) == (["One", "two"], 2)
    assert (registry.origin("one"), registry.origin("TWO"), registry.origin("six")) == (None, "mine.py", None)
    registry.add("two", 3, "mine.py")
    assert registry["two"] == 3
    with pytest.raises(UnknownNameError, match='unknown number "tow"; did you mean "two"'):
        registry.find("tow")
    with pytest.raises(UnknownNameError, match="known numbers: One, two"):
        registry.find("xyz")
    for name, origin in (("one", "mine.py"), ("two", "yours.py"), ("two", None)):
        with pytest.raises(InputError, match="is already there; choose another name"):
            registry.add(name, 4, origin)
    assert dict(registry) == {"One": 1, "two": 3}
