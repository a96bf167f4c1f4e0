"""An edited method's text becomes a function in the place of the author's.

Only the method itself is compiled, in the scopes it was written in: a class of the same name, so that ``self.__x`` is
mangled alike and ``super()`` has its ``__class__``, and a function whose parameters are the names that the method
closes over. These scopes never run. The code object is taken out of them and gets the author's own globals, closure
cells, defaults, annotations and attributes.

**Decorators never run a second time**, for running one may register, wrap or compile something. What the decorators
left in the class is copied in their place: each wrapper function is copied with the cell that held the old function
holding the new one. So counters and settings in the other cells stay shared, as the author's process has them. A
wrapper that keeps the function where Python cannot replace it (``functools.lru_cache``) is a refusal.
"""

from __future__ import annotations
import __future__

import ast
import copy
import dis
import functools
import itertools
import linecache
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sesurgery.errors import Unfit

Definition = ast.FunctionDef | ast.Lambda

_FUTURE = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
_COUNT = itertools.count()
_DEPTH = 6


@dataclass(frozen=True)
class EditedMethod:
    """A method of a class in other words.

    Attributes:
        owner: the class that defines the method.
        attribute: its name there.
        qualname: ``co_qualname`` of the function whose text this is: that of the method, or of a function that its
            decorators wrap.
        text: whole lines, indented as in the author's file.
        line: number of the first line in that file.
        ordinal: which function of the text it is, in the order of the text (a lambda need not be the first).
    """

    owner: type
    attribute: str
    qualname: str
    text: str
    line: int
    ordinal: int = 0


def compiled(method: EditedMethod, raw: Any) -> tuple[Any, str]:
    """What stands in a class in place of the attribute ``raw``, and the file name of its source in ``linecache``.

    The lines keep their numbers. The caller takes the source out of ``linecache`` again.

    Raises:
        Unfit: the class has no such method any more, its arguments or closure are others, or a wrapper around it
            cannot be copied.
    """
    function = next((each for each in functions_in(raw) if each.__code__.co_qualname == method.qualname), None)
    if function is None:
        raise Unfit(f"{method.owner.__qualname__} has no method {method.attribute} that could be edited")
    old = function.__code__
    filename = f"<sesurgery {os.path.basename(old.co_filename).strip('<>')} {old.co_qualname} {next(_COUNT)}>"
    try:
        node = definitions(parsed(method.text, method.line))[method.ordinal]
        code = code_like(node, old, filename)
    except (SyntaxError, IndexError) as error:
        raise Unfit(f"the edited {old.co_qualname} is no Python: {error}") from error
    if _signature(code) != _signature(old) or not set(code.co_freevars) <= set(old.co_freevars):
        raise Unfit(f"{old.co_qualname} has other arguments, or closes over other names, than the edited one")
    value = exchanged(raw, function, function_like(code, function))
    lines = ["\n"] * (method.line - 1) + lines_of(method.text)
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    return value, filename


def parsed(text: str, line: int) -> list[ast.stmt]:
    """The statements of ``text``, whose first line is number ``line``; positions are those of the author's file.

    Raises:
        SyntaxError: it is none.
    """
    if text[:1] in " \t":
        block = ast.parse("\n" * (line - 2) + "if 1:\n" + text).body[0]
        assert isinstance(block, ast.If)
        return block.body
    return ast.parse("\n" * (line - 1) + text).body


def lines_of(text: str) -> list[str]:
    """The lines of ``text``, which ends one, with their ends: a form feed ends none, as in Python."""
    return [line + "\n" for line in text.split("\n")[:-1]]


def definitions(statements: Sequence[ast.stmt]) -> list[Definition]:
    """Every function and lambda in ``statements``, in the order of the text."""
    nodes = [node for each in statements for node in ast.walk(each) if isinstance(node, Definition)]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset, -(node.end_lineno or 0)))


def code_like(node: Definition, like: types.CodeType, filename: str) -> types.CodeType:
    """The code of ``node``, compiled where ``like`` was: same scopes, names and future statements.

    Raises:
        SyntaxError: ``node`` does not compile there.
    """
    statement: ast.stmt = ast.Expr(node, **_ANYWHERE) if isinstance(node, ast.Lambda) else node
    scopes = 0
    owner = _class_around(like.co_qualname)
    if owner:
        statement = ast.ClassDef(owner, bases=[], keywords=[], body=[statement], decorator_list=[], **_ANYWHERE)
        scopes += 1
    if "<locals>" in like.co_qualname:
        cells = [ast.arg(name, **_ANYWHERE) for name in like.co_freevars if name != "__class__"]
        arguments = ast.arguments(posonlyargs=[], args=cells, kwonlyargs=[], kw_defaults=[], defaults=[])
        statement = ast.FunctionDef("outer", args=arguments, body=[statement], decorator_list=[], **_ANYWHERE)
        scopes += 1
    imports = [ast.Import([ast.alias(name, **_ANYWHERE)], **_ANYWHERE) for name in sorted(_imported(like))]
    module = ast.Module([*imports, statement], type_ignores=[])
    code = compile(module, filename, "exec", flags=like.co_flags & _FUTURE, dont_inherit=True)
    for _ in range(scopes):
        code = next(each for each in code.co_consts if isinstance(each, types.CodeType))
    # Lambdas among the defaults come before the body.
    name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
    own = [each for each in code.co_consts if isinstance(each, types.CodeType) and each.co_name == name][-1]
    return _renamed(own, own.co_qualname, like.co_qualname)


_ANYWHERE: Any = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}


def _imported(code: types.CodeType) -> set[str]:
    """The names that the module of ``code`` imports: calls of their attributes are compiled otherwise."""
    instructions = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
    plain, bound = set[str](), set[str]()
    for name, attribute in itertools.pairwise(instructions):
        if name.opname == "LOAD_GLOBAL" and attribute.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            method = attribute.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and (attribute.arg or 0) & 1)
            (bound if method else plain).add(name.argval)
    nested = [_imported(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return plain.difference(bound).union(*nested)


def _class_around(qualname: str) -> str | None:
    """The innermost class around a function, which is what mangles its private names."""
    parts = qualname.split(".")[:-1]
    while parts:
        if parts[-1] != "<locals>":
            return parts[-1]
        parts = parts[:-2]
    return None


def same_code(left: types.CodeType, right: types.CodeType) -> bool:
    """Whether two codes are equal, whatever the interpreter has learnt by running one of them."""
    return _renamed(left, "", "") == _renamed(right, "", "")


def _renamed(code: types.CodeType, old: str, new: str) -> types.CodeType:
    constants = tuple(_renamed(each, old, new) if isinstance(each, types.CodeType) else each for each in code.co_consts)
    return code.replace(co_qualname=new + code.co_qualname.removeprefix(old), co_consts=constants)


def _signature(code: types.CodeType) -> tuple[Any, ...]:
    arguments = code.co_argcount + code.co_kwonlyargcount
    rest = code.co_flags & 0x0C  # *args, **kwargs
    return code.co_argcount, code.co_posonlyargcount, rest, code.co_varnames[: arguments + rest.bit_count()]


def function_like(code: types.CodeType, old: types.FunctionType) -> types.FunctionType:
    """A function of ``code`` with everything else of ``old``: the very globals and cells too."""
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
    return _copied(old, code, tuple(cells[name] for name in code.co_freevars), old.__defaults__, old.__kwdefaults__)


def _copied(
    old: types.FunctionType, code: types.CodeType, cells: tuple[types.CellType, ...], defaults: Any, keywords: Any
) -> types.FunctionType:
    new = types.FunctionType(code, old.__globals__, old.__name__, defaults, cells)
    new.__kwdefaults__ = None if keywords is None else dict(keywords)
    new.__qualname__, new.__module__, new.__doc__ = old.__qualname__, old.__module__, old.__doc__
    lazily = "__annotate__" if hasattr(old, "__annotate__") else "__annotations__"  # from Python 3.14 on
    setattr(new, lazily, getattr(old, lazily))
    # torch.compile's wrappers know themselves by their id.
    new.__dict__.update({name: id(new) if value == id(old) else value for name, value in old.__dict__.items()})
    return new


def functions_in(value: Any) -> list[types.FunctionType]:
    """``value`` itself where it is a function, and the functions that it keeps and may call, the nearest first."""
    if isinstance(value, types.FunctionType) and not (value.__closure__ or value.__defaults__ or value.__kwdefaults__):
        return [value]
    seen = {id(value)}
    level, functions = [value], list[types.FunctionType]()
    for _ in range(_DEPTH):
        if not level:
            break
        functions += [each for each in level if isinstance(each, types.FunctionType)]
        parts = [part for each in level for part in _parts(each)]
        level = [part for part in parts if id(part) not in seen and not seen.add(id(part))]
    return functions


def _parts(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        return [*_contents(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, types.MethodType):
        return [value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args]
    return list(vars(value).values()) if _is_wrapper(value) else []


def _is_wrapper(value: Any) -> bool:
    """Whether ``value`` is an object that stands for a function: a decorator written as a class."""
    kind = type(value)
    plain = isinstance(value, type | types.ModuleType) or kind.__flags__ & (1 << 8)  # built in: nothing to replace
    return not plain and hasattr(value, "__dict__") and (hasattr(kind, "__get__") or callable(value))


def _contents(function: types.FunctionType) -> list[Any]:
    contents: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            contents.append(None)
    return contents


def exchanged(value: Any, old: types.FunctionType, new: types.FunctionType) -> Any:
    """``value`` (a function or what its decorators made of it) with ``new`` in the place of ``old``.

    Raises:
        Unfit: ``value`` keeps ``old`` where it cannot be replaced.
    """
    result = _exchanged(value, {id(old): new}, _DEPTH)
    if result is value:
        raise Unfit(f"{old.__qualname__} is wrapped in a decorator that cannot be given another function")
    return result


def _exchanged(value: Any, known: dict[int, Any], depth: int) -> Any:
    if id(value) in known or not depth:
        return known.get(id(value), value)
    known[id(value)] = value  # a wrapper may hold itself
    parts = _parts(value)
    replaced = [_exchanged(part, known, depth - 1) for part in parts]
    if any(a is not b for a, b in zip(parts, replaced, strict=True)):
        known[id(value)] = _rebuilt(value, replaced, known, depth)
    return known[id(value)]


def _rebuilt(value: Any, parts: list[Any], known: dict[int, Any], depth: int) -> Any:
    """A copy of ``value`` with other parts, in the order of ``_parts``."""
    if isinstance(value, types.FunctionType):
        return _function_of(value, parts, known, depth)
    if isinstance(value, property):
        return property(parts[0], value.fset, value.fdel, value.__doc__)
    if isinstance(value, types.MethodType):
        return types.MethodType(parts[0], value.__self__)
    if isinstance(value, functools.partial):
        return type(value)(parts[0], *parts[1:], **value.keywords)
    twin = copy.copy(value)
    if twin is value:
        return value
    vars(twin).update(zip(vars(value), parts, strict=True))
    return twin


def _function_of(old: types.FunctionType, parts: list[Any], known: dict[int, Any], depth: int) -> types.FunctionType:
    contents = _contents(old)
    cells = tuple(
        cell if before is after else types.CellType(after)
        for cell, before, after in zip(old.__closure__ or (), contents, parts, strict=False)
    )
    rest = parts[len(contents) :]
    defaults = tuple(rest[: len(old.__defaults__ or ())])
    keywords = dict(zip(old.__kwdefaults__ or (), rest[len(defaults) :], strict=True))
    new = _copied(old, old.__code__, cells, defaults or None, keywords or None)
    known[id(old)] = new
    # What only describes the function (__wrapped__) follows what it calls.
    new.__dict__.update({name: _exchanged(part, known, depth - 1) for name, part in new.__dict__.items()})
    return new
