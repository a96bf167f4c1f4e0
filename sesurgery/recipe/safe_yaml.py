"""Safe YAML: plain data or one clear error, whatever the bytes.

Narrower than ``yaml.safe_load`` on purpose. A recipe needs mappings, lists and YAML 1.2 scalars; everything by which a
file could build objects, grow without bound or mean something else than it says (tags, aliases, merge keys, duplicate
keys, ``1:30`` read as a number to base 60) is refused or read as the text it is.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from sesurgery.errors import RecipeError
from sesurgery.words.text import one_line, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_CORE = frozenset(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_QUOTE = 'put quotes around the value, as in channels: ">=128"'
# Characters that would reach a terminal as commands; a line break and a tab are harmless.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def read(text_or_path: str | bytes | Path, source: str | None = None) -> Any:
    """Read one YAML document.

    Args:
        text_or_path: the text itself (``str`` or ``bytes``), or the ``Path`` of a file.
        source: how messages call it; a path's own name where left out.

    Returns:
        Dicts with string keys, lists, str, int, float (finite), bool and None.

    Raises:
        RecipeError: for everything else, as ``source:line:column``, what is wrong and the remedy.
    """
    name = source or (str(text_or_path) if isinstance(text_or_path, Path) else "recipe")
    raw = _file_bytes(text_or_path, name) if isinstance(text_or_path, Path) else text_or_path
    text = raw if isinstance(raw, str) else _decode(raw, name)
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise RecipeError(name, [_TOO_LARGE])
    node = _compose(text, name)
    if node is None:
        raise RecipeError(f"{name}:1:1", ["the file is empty; a recipe needs at least rules:"])
    return _Builder(name).build(node)


_TOO_LARGE = f"the file is larger than {MAX_BYTES // 1024} KiB; a recipe is a page of text, is this the right file?"


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise RecipeError(name, ["this is a folder; name a .yaml file"])
        if not path.exists():
            raise RecipeError(name, ["no such file; check the path, or see: sesurgery recipes"])
        if not path.is_file():
            raise RecipeError(name, ["this is no regular file; name a .yaml file"])
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(name, [f"cannot be read ({reason}); check the path and its permissions"]) from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(name, [_TOO_LARGE])
    return raw


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        problem = f"byte 0x{raw[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        raise RecipeError(_place(name, before), [problem]) from None


def _place(name: str, before: str) -> str:
    return f"{name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


class _RefusedError(Exception):
    """A construct that a recipe has no use for, at a mark."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mark = mark


class _Resolver(BaseResolver):
    """YAML 1.2 core scalars: ``on``, ``1:30`` and ``2020-01-01`` stay the text they look like."""


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Resolver.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), list(_first))


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML up to its node graph; no constructor, so nothing can be constructed."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self.depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError(f"aliases (*{shown(event.anchor)}) are not allowed; {_QUOTE}, or write it out", mark)
        if getattr(event, "anchor", None) is not None:
            raise _RefusedError(f"anchors (&{shown(event.anchor)}) are not allowed; {_QUOTE}, or write it out", mark)
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _CORE:
            raise _RefusedError(f'the tag "{shown(tag)}" is not allowed, a recipe is plain data; {_QUOTE}', mark)
        if self.depth >= MAX_DEPTH:
            raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels; a recipe needs five", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, name: str) -> Node | None:
    try:
        return _Loader(text).get_single_node()
    except _RefusedError as error:
        raise RecipeError(_at(name, error.mark), [error.problem]) from None
    except ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        problem = f"the character U+{ord(text[position]):04X} has no place in text; remove it"
        raise RecipeError(_place(name, text[:position]), [problem]) from None
    except yaml.MarkedYAMLError as error:
        raise RecipeError(_at(name, error.problem_mark or error.context_mark), [_syntax(error)]) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, IndexError) as error:
        raise RecipeError(f"{name}:1:1", [f"not readable as YAML ({one_line(error, 60)}); check its syntax"]) from None


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(part for part in (error.context, error.problem) if part) or "not readable as YAML"
    if "single document" in problem:
        return "more than one document; keep one recipe per file (remove the second ---)"
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not tabs"
    if any(word in problem for word in ("token", "indicator", "tag", "alias", "anchor", "found ':'")):
        return f"{problem}; {_QUOTE}"
    if "mapping values are not allowed" in problem:
        return f"{problem}; {_QUOTE}, or check the indentation"
    return f"{problem}; check brackets, quotes and indentation here"


def _at(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else f"{name}:1:1"


class _Builder:
    """Nodes to plain data. Depth is bounded by the composer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, node: Node) -> Any:
        if isinstance(node, MappingNode):
            return self._mapping(node)
        if isinstance(node, SequenceNode):
            self._shape(node, "seq")
            return [self.build(item) for item in node.value]
        return self._scalar(node)

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        self._shape(node, "map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                name = shown(key_node.value) if isinstance(key_node, ScalarNode) else "this"
                problem = f'a key must be a word, not {name}; where commas belong to a value, quote it: stages: "1,3"'
                self._refuse(key_node, problem)
            elif key == "<<":
                self._refuse(key_node, "merge keys (<<) are not allowed; write it out")
            elif key in result:
                self._refuse(key_node, f'the key "{shown(key)}" is there twice; remove one')
            else:
                result[key] = self.build(value_node)
        return result

    def _shape(self, node: Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            self._refuse(node, f"the tag {shown(node.tag)} does not fit what follows; remove it")

    def _scalar(self, node: Node) -> Any:
        text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if _CONTROL.search(text):
            self._refuse(node, "a control character or half a character is hidden in this value; remove it")
        if kind == "str":
            return text
        if kind == "null" and text.lower() in ("", "~", "null"):
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind == "int":
                return _integer(text)
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, OverflowError):
            return self._refuse(node, f'"{shown(text)}" is no usable {kind}; correct it, or quote it if it is a word')
        if kind != "float" or not math.isfinite(number):
            self._refuse(node, f'"{shown(text)}" is no finite number; quote it if it is a word')
        return number

    def _refuse(self, node: Node, problem: str) -> Any:
        raise RecipeError(_at(self.name, node.start_mark), [problem])


def _integer(text: str) -> int:
    if len(text) > 18:
        raise ValueError("no option of a recipe has this many digits")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)
