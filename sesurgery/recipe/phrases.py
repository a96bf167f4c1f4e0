"""The phrases of ``at:``: words only. What they mean on a network is for ``placements`` and ``edits`` to say.

A phrase either names a *place* for ``insert`` ("before residual add") or *what* ``replace``, ``remove`` and ``rewire``
work on ("depthwise conv"). Each kind of layer has three: "after conv", "before conv" and "conv" itself ("on conv").
Phrases of layers take an ordinal: "after conv 1", "last pointwise conv"; "after conv 2, bare" is before its norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sesurgery.errors import InputError, either, nearest
from sesurgery.recipe.where import Condition
from sesurgery.words.registry import Registry
from sesurgery.words.text import shown
from sesurgery.words.user_code import load_plugins

ROLES = ("place", "conv", "linear", "attention", "activation", "norm", "module", "stage")


@dataclass(frozen=True)
class At:
    """A phrase as understood.

    Attributes:
        name: its canonical spelling.
        nth: of a phrase of layers, which one (1 first, -1 last, None every).
        bare: right behind the layer, before its norm and activation.
        where: how the rule narrows the phrase: an ordinal counts inside the class that ``type`` names.
    """

    name: str
    nth: int | None = None
    bare: bool = False
    where: Condition | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name}{'' if self.nth is None else f' {self.nth}'}{', bare' if self.bare else ''}"

    @property
    def role(self) -> str:
        """``place`` for inserts; ``conv``, ``attention``, ... for what is changed: one of ``ROLES``."""
        return PHRASES[self.name].role

    @property
    def of_blocks(self) -> bool:
        """Whether it names places of convolutions or linear layers: those of the blocks, unless said otherwise."""
        return self.role == "place" and self.layer.endswith(("conv", "linear"))

    @property
    def layer(self) -> str:
        """The kind of layer that the phrase is about: "conv" of "after conv"; the phrase itself for others."""
        return self.name.removeprefix("after ").removeprefix("before ")


@dataclass(frozen=True)
class Phrase:
    """One entry of the registry.

    Attributes:
        ordinal: whether "first", "last", "2nd" or a number may go with it.
        bare: whether ", bare" may.
        example: the author's line, and the line as the edit leaves it.
    """

    name: str
    role: str = "place"
    ordinal: bool = False
    summary: str = ""
    bare: bool = False
    example: tuple[str, str] = ("", "")


_FILLER = frozenset({"the", "each", "every", "all", "a", "an", "at", "block's", "blocks'", "its"})
_SAME = {"convs": "conv", "convolution": "conv", "convolutions": "conv", "1x1": "pointwise", "addition": "add"}
_SAME |= {"pool": "pooling", "poolings": "pooling", "blocks": "block", "stages": "stage", "concatenation": "concat"}
_SAME |= {"depth-wise": "depthwise", "point-wise": "pointwise", "activations": "activation", "norms": "norm"}
_SAME |= {"linears": "linear", "modules": "module", "sums": "sum", "concats": "concat"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBER = re.compile(r"(-?[0-9]{1,4})(?:st|nd|rd|th)?")


def _words(text: str) -> list[str]:
    plain = text.lower().replace("\u2019", "'").replace("\u00d7", "x")
    plain = plain.replace("(", " ").replace(")", " ").replace(",", " ")
    return [_SAME.get(word, word) for word in plain.split() if word not in _FILLER]


def _key(name: str) -> str:
    return " ".join(_words(name))


PHRASES: Registry[Phrase] = Registry("phrase", _key)


def register_phrase(
    name: str,
    *,
    role: str = "place",
    ordinal: bool = False,
    summary: str = "",
    bare: bool = False,
    example: tuple[str, str] = ("", ""),
    origin: str | None = None,
) -> Phrase:
    """Add a phrase, so that recipes may use it.

    Args:
        name: its canonical spelling, lower-case words.
        role: one of ``ROLES``; ``place`` for something an ``insert`` may name.
        ordinal: whether it takes "first", "last", "2", ...
        summary: one line for documentation.
        bare: whether it takes ", bare".
        example: an author's line before and after the edit.
        origin: the file or module of the user's that defines what it means.

    Raises:
        InputError: an empty name, an unknown role, or a name that is taken.
    """
    if not _key(name) or role not in ROLES:
        raise InputError(f'"{name}" cannot be a phrase', remedy=f"give it words and a role of {', '.join(ROLES)}")
    phrase = Phrase(name, role, ordinal, summary, bare, example)
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
    if phrase := _phrase(words):
        return At(phrase.name)
    bare = "bare" in words
    words = [word for word in words if word != "bare"]
    numbers = [(index, nth) for index, word in enumerate(words) if (nth := _nth(word)) is not None]
    if len(numbers) > 1 or not (numbers or bare):
        return _sought(text, words)
    index, nth = numbers[0] if numbers else (len(words), None)
    rest = words[:index] + words[index + 1 :]
    phrase = _phrase(rest)
    if phrase is None:
        return _sought(text, rest, nth)
    name = phrase.name
    if bare and not phrase.bare:
        raise InputError(f'"{shown(text)}"', where="at", remedy=f'"{name}" is never bare; leave the word out')
    if nth is not None and not phrase.ordinal:
        raise InputError(f'"{shown(text)}"', where="at", remedy=f'"{name}" takes no number; write "{name}"')
    if nth == 0:
        raise InputError(f'"{shown(text)}"', where="at", remedy=f'count from 1 or, from the end, -1: "{At(name, 1)}"')
    return At(name, nth, bare)


def _phrase(words: list[str]) -> Phrase | None:
    """The phrase of these words; "on norm" is "norm"."""
    whole = PHRASES.get(" ".join(words))
    return PHRASES.get(" ".join(words[1:])) if whole is None and words[:1] == ["on"] else whole


def named_like(text: str | None) -> list[Phrase]:
    """The phrases whose name holds ``text``; all of them for None. Raises ``UnknownNameError`` where none does."""
    if text is None:
        return list(PHRASES.values())
    return [each for each in PHRASES.values() if _key(text) in _key(each.name)] or [PHRASES.find(text)]


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
        remedy = f"it is one of: {', '.join(_in_short())}"
    raise InputError(f'"{shown(text)}"', where="at", remedy=remedy)


def _in_short() -> list[str]:
    """All phrases; of a kind of layer one entry stands for what is after it, before it, and itself."""
    layers = {At(name).layer for name in PHRASES} & set(PHRASES)
    return [
        f"(after, before) {name}" if f"after {name}" in PHRASES else name
        for name in PHRASES
        if not (At(name).layer in layers and At(name).layer != name)
    ]


_PLACES: dict[str, tuple[str, str, str]] = {
    "before residual add": (
        "at the end of the residual branch, just before it meets the identity",
        "out = self.bn2(out); out += identity",
        "out = self.se(self.bn2(out)); out += identity",
    ),
    "after residual add": (
        "at the block's output, behind the activation that follows the add",
        "return self.relu(out + identity)",
        "return self.se(self.relu(out + identity))",
    ),
    "after sum of like branches": (
        "behind a sum none of whose sides is the identity (RepVGG, FPN), and the activation that follows it",
        "y = self.dense(x) + self.pointwise(x)",
        "y = self.se(self.dense(x) + self.pointwise(x))",
    ),
    "start of residual branch": (
        "before the first layer of the residual branch; the identity does not pass it",
        "return x + self.conv1(x)",
        "return x + self.conv1(self.se_pre(x))",
    ),
    "on identity branch": (
        "on the identity, behind its projection where it has one",
        "out += self.downsample(x)",
        "out += self.se(self.downsample(x))",
    ),
    "before concat": (
        "at the end of the branch that does most of the work, before the block's concat",
        "out = torch.cat((x1, self.branch2(x2)), 1)",
        "out = torch.cat((x1, self.se(self.branch2(x2))), 1)",
    ),
    "after concat": (
        "behind each concat along the channels",
        "return torch.cat(branches, 1)",
        "return self.se(torch.cat(branches, 1))",
    ),
    "before pooling": (
        "behind the last convolution, its norm and activation, before each pooling that shrinks the map",
        "x = self.pool(self.relu(self.conv(x)))",
        "x = self.pool(self.se(self.relu(self.conv(x))))",
    ),
    "end of block": ("at the output of every block", "return out", "return self.se(out)"),
    "end of stage": ("at the output of the last block of every stage", "return out", "return self.se(out)"),
    "end of backbone": (
        "at the last feature map before pooling and classifier",
        "x = self.layer4(x)",
        "x = self.se(self.layer4(x))",
    ),
}
_LAYERS = {
    "conv": ("a convolution", "every one of each block, or the one that a number counts"),
    "spatial conv": ("a convolution with a kernel larger than 1", ""),
    "depthwise conv": ("a convolution with as many groups as channels", ""),
    "pointwise conv": ("a 1x1 convolution", ""),
    "linear": ("a linear layer", "those of a transformer's MLP, say"),
}
_OTHERS = {
    "norm": "a normalisation layer",
    "activation": "an activation layer",
    "module": "any module that where names by its type, path, or the class of a module around it",
}
for _name, (_summary, _old, _new) in _PLACES.items():
    register_phrase(_name, summary=_summary, example=(_old, _new))
for _name, (_kind, _more) in _LAYERS.items():
    _short = "fc1" if _name == "linear" else "conv1"
    _line = f"y = self.act(self.{_short}(x))"
    _behind = f"behind {_kind}, its norm and activation{f'; {_more}' if _more else ''}; bare: right behind it"
    register_phrase(
        f"after {_name}", ordinal=True, bare=True, summary=_behind, example=(_line, f"y = self.se({_line[4:]})")
    )
    register_phrase(
        f"before {_name}",
        ordinal=True,
        summary=f"before {_kind}; others that read its input do not see the layer",
        example=(_line, f"y = self.act(self.{_short}(self.se_pre(x)))"),
    )
for _name, _kind in _OTHERS.items():
    _owner = {"norm": "bn1", "activation": "act", "module": "m"}[_name]
    _line, _each = f"y = self.{_owner}(x)", ", each of its inputs" if _name == "module" else ""
    register_phrase(
        f"after {_name}",
        ordinal=_name != "module",
        summary=f"right behind {_kind}",
        example=(_line, f"y = self.se(self.{_owner}(x))"),
    )
    register_phrase(
        f"before {_name}",
        ordinal=_name != "module",
        summary=f"before {_kind}{_each}",
        example=(_line, f"y = self.{_owner}(self.se_pre(x))"),
    )
for _name, (_kind, _) in _LAYERS.items():
    _role = "linear" if _name == "linear" else "conv"
    register_phrase(_name, role=_role, ordinal=True, summary=f"{_kind} itself, to replace or remove")
for _name, _kind in _OTHERS.items():
    register_phrase(_name, role=_name, ordinal=_name != "module", summary=f"{_kind}, to replace or remove")
register_phrase("attention", role="attention", summary="existing attention, found by dataflow, to replace or remove")
register_phrase("stage", role="stage", summary="a whole stage, to rewire")
