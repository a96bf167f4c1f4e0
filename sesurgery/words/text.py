"""Text for messages: cut to a length, in one line, or as a list that says how many it leaves out. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

SIZE = 200  # of an error that somebody else raised
_IN_MEMORY = re.compile(r" at 0x[0-9a-fA-F]+")


def shown(value: object, size: int = 60) -> str:
    """A value for a message: at most ``size`` characters and none that moves a cursor; ``…`` says that it was cut."""
    if isinstance(value, int) and abs(value) >= 10**60:
        value = "a number of more than 60 digits"  # Python refuses to print one of thousands
    text = str(value)
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: size + 1])
    return plain if len(plain) <= size else plain[: size - 1] + "…"


def told(value: object) -> str:
    """What an object says of itself; its class and place in memory where it fails to."""
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


def told_anywhere(value: object) -> str:
    """The same without places in memory: it holds in every process."""
    return _IN_MEMORY.sub("", told(value))


def one_line(error: object, size: int = SIZE) -> str:
    """All of an error's text in one line; the name of its class where it says nothing."""
    return shown(" ".join(str(error).split()) or type(error).__name__, size)


def message(error: object, size: int = SIZE) -> str:
    """The first line of an error's text that says something; the name of its class where none does."""
    return shown(next(_lines(error), type(error).__name__), size)


def last_line(error: object, size: int = SIZE) -> str:
    """The last line of an error's text; torch lists there what did not fit."""
    return shown([type(error).__name__, *_lines(error)][-1], size)


def reason(error: BaseException, size: int = SIZE) -> str:
    """``RuntimeError: the first line``, or the class alone where the error says nothing."""
    text = next(_lines(error), "").rstrip(".")
    return shown(f"{type(error).__name__}: {text}" if text else type(error).__name__, size)


def listed(names: Iterable[str], count: int = 3, form: Callable[[str], str] = str, joint: str = "and") -> str:
    """``a, b, c and 4 more``: the first ``count`` names, each as ``form`` writes it.

    Where only one would be left out, it is named too.
    """
    every = list(names)
    few = every if len(every) <= count + 1 else every[:count]
    more = f" {joint} {len(every) - len(few)} more" if len(few) < len(every) else ""
    return ", ".join(form(name) for name in few) + more


def _lines(error: object) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())
