"""An edited method as a method of a subclass in another file.

What a method means by where it stands is written out: ``super()`` and ``__class__`` name the author's class, private
names (``self.__x``) are spelled as the author's class mangles them, and the names of its module are imported.
"""

from __future__ import annotations

import ast
import dis
import io
import tokenize
import types
from collections.abc import Iterator

from torch import nn

from sesurgery.errors import Unfit
from sesurgery.export.names import Names, free_names
from sesurgery.operating.compiled_method import EditedMethod, code_like, definitions, functions_in, parsed
from sesurgery.operating.edited_class import edited_methods, original_class
from sesurgery.rewriting.author_source import Span, span_of
from sesurgery.rewriting.text_changes import TextChanges

_INDENT = "    "


def class_text(kind: type[nn.Module], name: str, names: Names) -> str:
    """The class ``kind``, which was made of edited methods, as the source of a subclass called ``name``.

    Raises:
        Unfit: a method cannot be written anywhere else; its text says why.
    """
    base = original_class(kind)
    own: list[str] = []
    behind: dict[type, list[str]] = {}
    for method in edited_methods(kind):
        raw = vars(method.owner)[method.attribute]
        text, defined = _method_text(method, raw, names)
        parts = [text]
        for alias in (each for each, other in vars(method.owner).items() if other is raw):
            first = next(each for each in base.__mro__ if alias in vars(each))
            body = own if first is method.owner else behind.setdefault(method.owner, [])
            body += parts if alias == defined else [*parts, f"{_INDENT}{alias} = {defined}"]
            parts = []
    mixed = [owner for owner in base.__mro__ if owner in behind]
    texts = []
    bases = [names.reference(base)]
    for owner in mixed:
        bases.append(names.define(f"{owner.__name__}Behind{name}"))
        texts.append(_class(bases[-1], [names.reference(owner)], owner, behind[owner]))
    texts.append(_class(name, bases, base, own))
    return "\n\n\n".join(texts)


def _class(name: str, bases: list[str], like: type, body: list[str]) -> str:
    about = f'{_INDENT}"""``{like.__qualname__}`` of {like.__module__}, edited."""'
    return "\n\n".join([f"class {name}({', '.join(bases)}):\n{about}", *body])


def _method_text(method: EditedMethod, raw: object, names: Names) -> tuple[str, str]:
    """The method's lines, and the name that they define."""
    function = next(each for each in functions_in(raw) if each.__code__.co_qualname == method.qualname)
    statements = parsed(method.text, method.line)
    node = definitions(statements)[method.ordinal]
    statement = statements[0]
    if len(statements) != 1 or not _defines(statement, node):
        where = f"{method.owner.__qualname__}.{method.attribute}"
        raise Unfit(f"the edit of {where} lies in {method.qualname}, a decorator or a part of a longer statement")
    code = code_like(node, function.__code__, "<ejected>")
    _refuse_scopes(code, method)
    text = _Text(method, statement, TextChanges(method.text, method.line))
    text.write_out(names)
    text.rename(_globals(code, statement), function, names)
    target = statement.name if isinstance(statement, ast.FunctionDef) else statement.targets[0].id  # type: ignore[attr-defined]
    return _indented(text.changes.result()).rstrip("\n"), target


def _defines(statement: ast.stmt, node: ast.AST) -> bool:
    if isinstance(statement, ast.Assign) and statement.value is node:
        return len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    return statement is node


def _refuse_scopes(code: types.CodeType, method: EditedMethod) -> None:
    where = f"{method.owner.__qualname__}.{method.attribute}"
    closed = sorted(set(code.co_freevars) - {"__class__"})
    if closed:
        raise Unfit(f"{where} closes over {', '.join(closed)} of the function that its class is defined in")
    written = sorted({each.argval for each in _instructions(code) if each.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")})
    if written:
        raise Unfit(f"{where} sets {', '.join(written)} of its module, which another file could not do")


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _instructions(each)


def _globals(code: types.CodeType, statement: ast.stmt) -> set[str]:
    """The names that a method takes from its module, those of its decorators, defaults and annotations too."""
    names = {str(each.argval) for each in _instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    annotated = [each.annotation for each in ast.walk(statement) if isinstance(each, ast.AnnAssign | ast.arg)]
    if isinstance(statement, ast.FunctionDef):
        arguments = statement.args
        names |= free_names([*statement.decorator_list, *arguments.defaults, *arguments.kw_defaults])
        annotated.append(statement.returns)
    names |= free_names(annotated, texts=True)
    return names


class _Text:
    """A method's text while it is adapted to another file."""

    def __init__(self, method: EditedMethod, statement: ast.stmt, changes: TextChanges) -> None:
        self.method = method
        self.statement = statement
        self.changes = changes
        self.inside_strings = {
            id(part) for each in ast.walk(statement) if isinstance(each, ast.JoinedStr) for part in ast.walk(each)
        }

    def replace(self, node: ast.AST, span: Span, text: str) -> None:
        if id(node) in self.inside_strings:
            raise Unfit(f"{self.method.qualname} would have to be changed inside an f-string")
        self.changes.replace(span, text)

    def write_out(self, names: Names) -> None:
        """Name the class that the method stands in wherever only its place says so."""
        owner = self.method.owner
        mangled = f"_{owner.__name__.lstrip('_')}"
        for node in ast.walk(self.statement):
            if (
                isinstance(node, ast.Call)
                and not node.args
                and isinstance(node.func, ast.Name)
                and node.func.id == "super"
            ):
                first = self._first_argument()
                self.replace(node, span_of(node), f"super({names.reference(owner)}, {first})")
            elif isinstance(node, ast.Name) and node.id == "__class__":
                self.replace(node, span_of(node), names.reference(owner))
            elif isinstance(node, ast.Attribute) and _is_private(node.attr):
                line, column = node.end_lineno or 0, node.end_col_offset or 0
                start = Span(line, column - len(node.attr.encode()), line, column)
                self.replace(node, start, mangled + node.attr)
            elif isinstance(node, ast.Name | ast.arg | ast.keyword) and _is_private(
                getattr(node, "id", node.__dict__.get("arg")) or ""
            ):
                raise Unfit(f"{self.method.qualname} has a private variable")

    def _first_argument(self) -> str:
        node = self.statement if isinstance(self.statement, ast.FunctionDef) else self.statement.value  # type: ignore[attr-defined]
        arguments = [*node.args.posonlyargs, *node.args.args]
        if not arguments:
            raise Unfit(f"{self.method.qualname} has no parameter for the module itself")
        return arguments[0].arg

    def rename(self, wanted: set[str], function: types.FunctionType, names: Names) -> None:
        """Import what the method takes from its module, and spell it as it is called in the new file."""
        scope = function.__globals__
        home = str(scope.get("__name__"))
        here = {name: names.bind(name, scope[name], home) for name in sorted(wanted) if name in scope}
        unknown = [name for name in here if name.startswith("__")]
        if unknown:
            raise Unfit(f"{self.method.qualname} uses {unknown[0]} of its module")
        for node in ast.walk(self.statement):
            if isinstance(node, ast.Name) and here.get(node.id, node.id) != node.id:
                self.replace(node, span_of(node), here[node.id])
        for node in ast.walk(self.statement):
            if isinstance(node, ast.arg) and node.annotation is not None:
                self._drop_unknown(node, node.annotation, scope)

    def _drop_unknown(self, node: ast.arg, annotation: ast.expr, scope: dict[str, object]) -> None:
        """Annotations may name what a type checker alone imports."""
        builtin = scope.get("__builtins__")
        known = scope.keys() | (builtin.keys() if isinstance(builtin, dict) else set(dir(builtin)))
        if any(isinstance(each, ast.Name) and each.id not in known for each in ast.walk(annotation)):
            end = span_of(annotation)
            start = Span(node.lineno, node.col_offset, end.end_line, end.end_column)
            self.replace(node, start, node.arg)


def _is_private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _indented(text: str) -> str:
    """Whole lines of a method with the indentation of a class body; what lies inside strings stays."""
    old = text[: len(text) - len(text.lstrip())]
    if old == _INDENT:
        return text
    inside: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO("if 1:\n" + text if old else text).readline):
        if token.type == tokenize.STRING:
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
    shift = 1 if old else 0
    lines = text.splitlines(keepends=True)
    return "".join(
        line if number + shift in inside or not line.strip() else _INDENT + line.removeprefix(old)
        for number, line in enumerate(lines, 1)
    )
