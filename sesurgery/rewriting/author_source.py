"""The author's text of a running method, and the syntax at a place in it.

The text is the method's own lines, as they stand in the file, the notebook cell or wherever ``linecache`` finds them.
It is believed only if it compiles to the very code that runs: same instructions, constants and positions. A file that
was changed since it was imported is therefore never edited, whatever its lines look like now.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import sys
import tokenize
import types
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import (
    Definition,
    EditedMethod,
    code_like,
    definitions,
    functions_in,
    lines_of,
    parsed,
    same_code,
)
from sesurgery.operating.edited_class import edited_methods, original_class

_Text = tuple[str, int, int, Definition]


class Span(NamedTuple):
    """A piece of a file. Lines count from 1, columns are bytes of UTF-8 from 0, as in ``ast`` and ``co_positions``."""

    line: int
    column: int
    end_line: int
    end_column: int


def span_of(node: ast.AST) -> Span:
    """Where ``node`` (an expression, a statement, an argument) stands."""
    return Span(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Method:
    """A method in the author's words.

    Attributes:
        owner: the class that defines it.
        attribute: its name there.
        function: the function whose text this is: the method, or the function that its decorators wrap.
        text: whole lines of the file.
        line: number of the first.
        ordinal: which function of the text it is, in the order of the text.
        node: its syntax.
    """

    owner: type
    attribute: str
    function: types.FunctionType
    text: str
    line: int
    ordinal: int
    node: Definition = field(repr=False)

    @property
    def filename(self) -> str:
        """The author's file."""
        return self.function.__code__.co_filename

    @property
    def name(self) -> str:
        """The method as a reader calls it: ``Block.forward``."""
        return f"{self.owner.__qualname__}.{self.attribute}"

    def source(self, span: Span) -> str:
        """What stands at ``span``."""
        lines = [line.encode() for line in lines_of(self.text)[span.line - self.line : span.end_line - self.line + 1]]
        lines[-1] = lines[-1][: span.end_column]
        lines[0] = lines[0][span.column :]
        return b"".join(lines).decode()

    @functools.cached_property
    def syntax(self) -> Syntax:
        """The syntax tree of the method's body, to be asked by place."""
        return Syntax(self.node)


class Syntax:
    """The nodes of a method's body by place, each with the node around it."""

    def __init__(self, root: Definition) -> None:
        self.root = root
        self.around: dict[ast.AST, ast.AST] = {}
        self.nodes: list[ast.expr | ast.stmt] = []
        self._at: dict[Span, list[ast.expr | ast.stmt]] = {}
        for part in root.body if isinstance(root.body, list) else [root.body]:
            self._enter(part, root)

    def _enter(self, node: ast.AST, around: ast.AST) -> None:
        self.around[node] = around
        if isinstance(node, ast.expr | ast.stmt):
            self.nodes.append(node)
            self._at.setdefault(span_of(node), []).append(node)
        # Python 3.11 does not know where the parts of an f-string stand.
        if not isinstance(node, ast.JoinedStr):
            for child in ast.iter_child_nodes(node):
                self._enter(child, node)

    def ways_up(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """``node`` and what is around it, then that and what is around it, up to the method."""
        while node is not self.root:
            yield node, self.around[node]
            node = self.around[node]

    def statement_of(self, node: ast.AST) -> ast.stmt | None:
        """The innermost statement around an expression; None in a lambda that is the method."""
        return next((each for each, _ in self.ways_up(node) if isinstance(each, ast.stmt)), None)

    def statement_at(self, span: Span) -> ast.stmt | None:
        """The statement that stands exactly at ``span``."""
        return next((each for each in self._at.get(span, ()) if isinstance(each, ast.stmt)), None)

    def expression_at(self, span: Span) -> ast.expr | None:
        """The expression whose value an instruction at ``span`` gives.

        That is the one that stands exactly there. An attribute on a line of its own (``.relu()``) is an exception: its
        instruction says where the name begins. Else it is the smallest around the span, and None where there is none.
        """
        exact = next((each for each in self._at.get(span, ()) if isinstance(each, ast.expr)), None)
        if exact is not None or self.statement_at(span) is not None:
            return exact
        expressions = [each for each in self.nodes if isinstance(each, ast.expr)]
        for each in expressions:
            name = each.func if isinstance(each, ast.Call) else each
            ends_here = span_of(each)[2:] == span[2:]
            if ends_here and isinstance(name, ast.Attribute) and name.end_lineno == span.line != name.value.lineno:
                return each
        enclosing = [each for each in expressions if encloses(span_of(each), span)]
        return max(enclosing, key=lambda each: (span_of(each)[:2], [-end for end in span_of(each)[2:]]), default=None)


def encloses(outer: Span, inner: Span) -> bool:
    """Whether ``inner`` lies in ``outer``; equal spans do."""
    return outer[:2] <= inner[:2] and inner[2:] <= outer[2:]


def read_method(cls: type, code: types.CodeType) -> Method:
    """The method of ``cls`` in which ``code`` runs: its own code, or a function, lambda or comprehension in it.

    Of a class that was edited before it is the edited text, of a method of the author's class.

    Raises:
        Unfit: no method of the class runs ``code``, or its text is not to be had or not what runs.
    """
    owner, attribute, function = _method_running(cls, code)
    if original_class(owner) is not owner:
        qualname = function.__code__.co_qualname
        before = next(each for each in edited_methods(cls) if each.qualname == qualname)
        owner, attribute = before.owner, before.attribute
    text, line, ordinal, node = _text_of(function)
    return Method(owner, attribute, function, text, line, ordinal, node)


def _method_running(cls: type, code: types.CodeType) -> tuple[type, str, types.FunctionType]:
    running: dict[types.FunctionType, tuple[type, str, types.FunctionType]] = {}
    for owner in (each for each in cls.__mro__ if each is not nn.Module):
        for attribute, raw in vars(owner).items():
            if isinstance(raw, staticmethod | classmethod) and _runs(raw.__func__, code):
                raise Unfit(f"{owner.__qualname__}.{attribute} is no method of the module: it has no self")
            for function in functions_in(raw):
                if _runs(function, code) and _is_the_method(function, raw, attribute):
                    running.setdefault(function, (owner, attribute, function))
    if not running:
        raise Unfit(f"the operation lies in {code.co_qualname}, which is no method of {cls.__qualname__}")
    if len(running) > 1:
        names = " and ".join(f"{owner.__qualname__}.{attribute}" for owner, attribute, _ in running.values())
        raise Unfit(f"the operation lies in {code.co_qualname}, which {names} share")
    return next(iter(running.values()))


def _runs(function: object, code: types.CodeType) -> bool:
    own = getattr(function, "__code__", None)
    return own is not None and own.co_filename == code.co_filename and _holds(own, code)


def _holds(own: types.CodeType, code: types.CodeType) -> bool:
    return own is code or any(isinstance(each, types.CodeType) and _holds(each, code) for each in own.co_consts)


def _is_the_method(function: types.FunctionType, raw: object, attribute: str) -> bool:
    """Whether the module itself is its first argument, as it need not be for a function that a method closes over."""
    wrapped = raw
    while wrapped is not function and hasattr(wrapped, "__wrapped__"):
        wrapped = wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped is function or function.__name__ == attribute


# The code, the lines and what was read in them, as long as nobody reads the file again.
_READ: weakref.WeakKeyDictionary[types.FunctionType, tuple[types.CodeType, Sequence[str], _Text]]
_READ = weakref.WeakKeyDictionary()


def _text_of(function: types.FunctionType) -> _Text:
    code = function.__code__
    name = code.co_qualname
    lines = linecache.getlines(code.co_filename, function.__globals__)
    known = _READ.get(function)
    if known is not None and known[0] is code and known[1] is lines:
        return known[2]
    if not lines:
        raise Unfit(f"there is no source of {name}")
    text = _matching(code, lines)
    if text is None:
        # What linecache remembers may be older than what was imported.
        linecache.checkcache(code.co_filename)
        newer = linecache.getlines(code.co_filename, function.__globals__)
        text, lines = (_matching(code, newer) if newer != lines else None), newer
    if text is None:
        raise Unfit(f"the source of {name} is not what runs: {code.co_filename} changed on disk since it was imported")
    _READ[function] = code, lines, text
    return text


def _matching(code: types.CodeType, lines: Sequence[str]) -> _Text | None:
    """The lines that compile to ``code``, and which function of theirs it is."""
    for text, line in _lambda_texts(code, lines) if code.co_name == "<lambda>" else _def_texts(code, lines):
        try:
            nodes = definitions(parsed(text, line))
        except (SyntaxError, ValueError):
            continue
        for ordinal, node in enumerate(nodes):
            name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
            if name == code.co_name and _compiles_to(node, code):
                return text, line, ordinal, node
    return None


def _compiles_to(node: Definition, code: types.CodeType) -> bool:
    try:
        return same_code(code_like(node, code, code.co_filename), code)
    except (SyntaxError, IndexError):
        return False


def _def_texts(code: types.CodeType, lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    first = code.co_firstlineno
    try:
        yield _whole("".join(inspect.getblock(lines[first - 1 :]))), first
    except (SyntaxError, tokenize.TokenError):
        return


def _lambda_texts(code: types.CodeType, lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The statements around a lambda that begin a line, the smallest first."""
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)
        and not lines[node.lineno - 1].encode()[: node.col_offset].strip()
    ]
    for node in sorted(around, key=lambda node: (node.end_lineno or 0) - node.lineno):
        yield _whole("".join(lines[node.lineno - 1 : node.end_lineno])), node.lineno


def _whole(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def text_of(method: EditedMethod) -> Method:
    """The author's text of a method that was edited. Raises ``Unfit`` where it is not to be had any more."""
    raw = vars(method.owner).get(method.attribute)
    function = next((each for each in functions_in(raw) if each.__code__.co_qualname == method.qualname), None)
    if function is None:
        raise Unfit(f"{method.owner.__qualname__} has no method {method.attribute}")
    return read_method(method.owner, function.__code__)


def shown_file(filename: str) -> str:
    """A file's name as people know it: below the folder that Python imports it from; empty where it is a notebook's."""
    if not os.path.isfile(filename):
        return ""
    folders = sorted((folder for folder in sys.path if folder), key=len, reverse=True)
    folder = next((folder for folder in folders if filename.startswith(folder.rstrip("/") + "/")), "")
    return filename[len(folder.rstrip("/")) + 1 :] if folder else filename


def returned(method: Method) -> list[ast.expr]:
    """The expressions whose values the method itself returns; those of functions defined in it are left out."""
    if isinstance(method.node, ast.Lambda):
        return [method.node.body]
    values: list[ast.expr] = []
    pending: list[ast.AST] = list(method.node.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Return):
            if node.value is None:
                raise Unfit(f"{method.name} returns nothing in line {node.lineno}")
            values.append(node.value)
        pending.extend(ast.iter_child_nodes(node))
    return values
