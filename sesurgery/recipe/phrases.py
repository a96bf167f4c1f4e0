"""The phrases of ``at:``: words only. What they mean on a network is for ``placements`` and ``edits`` to say.

A phrase either names a *place* for ``insert`` ("before residual add") or *what* ``replace``, ``remove`` and ``rewire``
work on ("depthwise conv"). Phrases of convolutions take an ordinal: "after conv 1", "last pointwise conv".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sesurgery.errors import InputError, either, nearest
from sesurgery.words.registry import Registry
from sesurgery.words.text import shown
from sesurgery.words.user_code import load_plugins

ROLES = ("place", "conv", "attention", "activation", "norm", "stage")


@dataclass(frozen=True)
class At:
    """A phrase as understood: its canonical name and, for convolutions, which one (1 first, -1 last, None every)."""

    name: str
    nth: int | None = None

    def __str__(self) -> str:
        return self.name if self.nth is None else f"{self.name} {self.nth}"

    @property
    def role(self) -> str:
        """``place`` for inserts; ``conv``, ``attention``, ``activation``, ``norm`` or ``stage`` for what is changed."""
        return PHRASES[self.name].role


@dataclass(frozen=True)
class Phrase:
    """One entry of the registry. ``ordinal`` says whether "first", "last", "2nd" or a number may go with it."""

    name: str
    role: str = "place"
    ordinal: bool = False
    summary: str = ""


_FILLER = frozenset({"the", "each", "every", "all", "a", "an", "at", "block's", "blocks'", "its"})
_SAME = {"convs": "conv", "convolution": "conv", "convolutions": "conv", "1x1": "pointwise", "addition": "add"}
_SAME |= {"pool": "pooling", "poolings": "pooling", "blocks": "block", "stages": "stage", "concatenation": "concat"}
_SAME |= {"depth-wise": "depthwise", "point-wise": "pointwise", "activations": "activation", "norms": "norm"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBER = re.compile(r"(-?[0-9]{1,4})(?:st|nd|rd|th)?")


def _words(text: str) -> list[str]:
    plain = text.lower().replace("\u2019", "'").replace("\u00d7", "x").replace("(", " ").replace(")", " ")
    return [_SAME.get(word, word) for word in plain.split() if word not in _FILLER]


def _key(name: str) -> str:
    return " ".join(_words(name))


PHRASES: Registry[Phrase] = Registry("phrase", _key)


def register_phrase(
    name: str, *, role: str = "place", ordinal: bool = False, summary: str = "", origin: str | None = None
) -> Phrase:
    """Add a phrase, so that recipes may use it.

    Args:
        name: its canonical spelling, lower-case words.
        role: one of ``ROLES``; ``place`` for something an ``insert`` may name.
        ordinal: whether it takes "first", "last", "2", ...
        summary: one line for documentation.
        origin: the file or module of the user's that defines what it means.

    Raises:
        InputError: an empty name, an unknown role, or a name that is taken.
    """
    if not _key(name) or role not in ROLES:
        raise InputError(f'"{name}" cannot be a phrase', remedy=f"give it words and a role of {', '.join(ROLES)}")
    phrase = Phrase(name, role, ordinal, summary)
    PHRASES.add(name, phrase, origin)
    return phrase


def parse_at(text: str) -> At:
    """Understand a phrase, tolerant of articles, capitals, plurals and the spelling of ordinals.

    Raises:
        InputError: ``at: "before residul add"; did you mean "before residual add"?``
    """
    if not isinstance(text, str):
        raise InputError(f"{text!r:.60} is no phrase", where="at", remedy='write words, such as "before residual add"')
    words = _words(text[:200])
    if phrase := PHRASES.get(" ".join(words)):
        return At(phrase.name)
    numbers = [(index, nth) for index, word in enumerate(words) if (nth := _nth(word)) is not None]
    if len(numbers) != 1:
        return _sought(text, words)
    index, nth = numbers[0]
    rest = words[:index] + words[index + 1 :]
    phrase = PHRASES.get(" ".join(rest))
    if phrase is None:
        return _sought(text, rest, nth)
    name = phrase.name
    if not phrase.ordinal:
        raise InputError(f'"{shown(text)}"', where="at", remedy=f'"{name}" takes no number; write "{name}"')
    if nth == 0:
        raise InputError(f'"{shown(text)}"', where="at", remedy=f'count from 1 or, from the end, -1: "{At(name, 1)}"')
    return At(name, nth)


def phrase_names(roles: Iterable[str] = ROLES) -> list[str]:
    """Canonical names, in the order in which they were registered."""
    wanted = set(roles)
    return [phrase.name for phrase in PHRASES.values() if phrase.role in wanted]


def _nth(word: str) -> int | None:
    if word in ORDINALS:
        return ORDINALS.index(word) + 1
    if word == "last":
        return -1
    match = _NUMBER.fullmatch(word)
    return int(match[1]) if match else None


def _sought(text: str, words: list[str], nth: int | None = None) -> At:
    """A phrase that only a plugin can know; raises ``InputError`` where none does."""
    known = len(PHRASES)
    load_plugins()
    if len(PHRASES) > known:
        return parse_at(text)
    near = nearest(" ".join(words), map(_key, PHRASES), count=1)
    if near:
        phrase = PHRASES[near[0]]
        meant = str(At(phrase.name, nth if phrase.ordinal and nth else None))
        remedy = f"did you mean {either([meant])}?"
    else:
        remedy = f"it is one of: {', '.join(PHRASES)}"
    raise InputError(f'"{shown(text)}"', where="at", remedy=remedy)


for _name, _summary in {
    "before residual add": "at the end of the residual branch, just before it meets the identity",
    "after residual add": "at the block's output, behind the activation that follows the add",
    "start of residual branch": "before the first layer of the residual branch; the identity does not pass it",
    "on identity branch": "on the identity, behind its projection where it has one",
    "before concat": "at the end of the branch that does most of the work, before the block's concat",
    "after concat": "behind the concat whose result leaves the block",
    "before pooling": "behind the last convolution, its norm and activation, before each pooling that shrinks the map",
    "end of block": "at the output of every block",
    "end of stage": "at the output of the last block of every stage",
    "end of backbone": "at the last feature map before pooling and classifier",
}.items():
    register_phrase(_name, summary=_summary)
for _name, _summary in {
    "after spatial conv": "behind a convolution with a kernel larger than 1, its norm and activation",
    "after depthwise conv": "behind a convolution with as many groups as channels, its norm and activation",
    "after pointwise conv": "behind a 1x1 convolution, its norm and activation",
    "after conv": "behind a convolution, its norm and activation; every one of the block without a number",
}.items():
    register_phrase(_name, ordinal=True, summary=_summary)
for _name in ("depthwise conv", "spatial conv", "pointwise conv", "conv"):
    register_phrase(_name, role="conv", ordinal=True, summary=f"the {_name} itself, to replace or remove")
register_phrase("attention", role="attention", summary="an existing gate or attention node, found by dataflow")
register_phrase("activation", role="activation", summary="an activation layer, to replace")
register_phrase("norm", role="norm", summary="a normalisation layer, to replace")
register_phrase("stage", role="stage", summary="a whole stage, to rewire")
