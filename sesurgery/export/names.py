"""The names of an ejected file: what it imports, and the sources that it carries because they cannot be imported."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sesurgery.errors import Unfit
from sesurgery.words.user_code import is_of_a_file

_PACKAGE = __name__.partition(".")[0]
WIDTH = 120
_USES_US = re.compile(rf"^\s*(?:from|import)\s+{_PACKAGE}\b", re.MULTILINE)


@dataclass
class Names:
    """The global names of one Python file.

    Attributes:
        bound: what each stands for.
        imports: the line that binds a name; several may share one module.
        sources: texts of classes and functions that the file carries, what they need first.
        files: the user's own files that go along, by the name under which they are imported.
    """

    bound: dict[str, Any] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def reference(self, value: Any) -> str:
        """An expression for a class or a function that lies in a module. Raises ``Unfit`` where there is none."""
        module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module == "builtins":
            return path
        outer = _outer(module, path)
        if outer is None or _attribute(outer, path.split(".")[1:]) is not value:
            raise Unfit(f"{_said(value)} cannot be imported: it is no name of a module")
        name, *inner = path.split(".")
        if sys.modules.get("torch.nn") is not None and getattr(sys.modules["torch.nn"], name, None) is outer:
            return ".".join((self.bind("nn", sys.modules["torch.nn"], "torch"), name, *inner))
        return ".".join((self.bind(name, outer, str(module)), *inner))

    def bind(self, name: str, value: Any, home: str) -> str:
        """The name here of what the module ``home`` calls ``name``; another where that is given to something else."""
        for known, other in self.bound.items():
            if other is value and re.fullmatch(rf"{name}(_\d+)?", known):
                return known
        chosen = self.free(name)
        place = _import_of(name, value, home, self.files)
        self.bound[chosen] = value
        if place is None:
            self._carry(chosen, value)
        else:
            self.imports[chosen] = place
        return chosen

    def fix(self, name: str, value: Any, home: str) -> None:
        """As ``bind``, where no other name will do. Raises ``Unfit`` where it is given to something else."""
        if self.bind(name, value, home) != name:
            raise Unfit(f"the author's code has something else of the name {name}")

    def define(self, name: str, value: Any = None) -> str:
        """A new name for something that the file itself defines."""
        chosen = self.free(name)
        self.bound[chosen] = value if value is not None else object()
        return chosen

    def free(self, name: str) -> str:
        """``name``, with a number behind it where it is given already."""
        taken = self.bound.keys() | vars(builtins).keys()
        number = 2
        chosen = name
        while chosen in taken:
            chosen, number = f"{name}_{number}", number + 1
        return chosen

    def _carry(self, name: str, value: Any) -> None:
        """Copy the source of a class or function, and of all that it needs, without what registers it with us."""
        try:
            text = textwrap.dedent(inspect.getsource(value))
            tree = ast.parse(text).body[0]
        except (OSError, TypeError, SyntaxError) as error:
            raise Unfit(f"there is no source of {_said(value)}, which cannot be imported elsewhere") from error
        assert isinstance(tree, ast.ClassDef | ast.FunctionDef)
        scope = vars(sys.modules[value.__module__])
        lines = text.splitlines(keepends=True)
        ours = [each for each in tree.decorator_list if _leads_to_us(each, scope)]
        for decorator in ours:
            lines[decorator.lineno - 1 : decorator.end_lineno] = [""] * _lines(decorator)
        wanted = {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}
        wanted -= {each.id for decorator in ours for each in ast.walk(decorator) if isinstance(each, ast.Name)}
        for used in sorted(wanted - {tree.name}):
            if used in scope and self.bind(used, scope[used], value.__module__) != used:
                raise Unfit(f"{_said(value)} needs the name {used}, which is another thing in this file")
        if name != tree.name:
            raise Unfit(f"{_said(value)} has a name that is given to something else in this file")
        self.sources.append("".join(lines).strip("\n"))

    def lines(self, body: str) -> list[str]:
        """The import statements that ``body`` needs, in the order that isort gives them."""
        for name in [name for name in self.imports if not re.search(rf"\b{name}\b", body)]:
            del self.imports[name]
        whole = [
            (self._section(module), 0, module, (0, ""), f"import {module}" + (f" as {name}" if name != module else ""))
            for name, (module, attribute) in self.imports.items()
            if not attribute
        ]
        parts: dict[str, list[str]] = {}
        for name, (module, attribute) in self.imports.items():
            if attribute:
                parts.setdefault(module, []).append(attribute + (f" as {name}" if name != attribute else ""))
        named = [
            (self._section(each), 1, each, *line) for each, names in parts.items() for line in _from_lines(each, names)
        ]
        rows = sorted([*whole, *named])
        blocks = [[text for section, *_, text in rows if section == each] for each in range(3)]
        return "\n\n".join("\n".join(block) for block in blocks if block).split("\n")

    def _section(self, module: str) -> int:
        """0 for the standard library, 1 for what is installed, 2 for what lies beside the file."""
        return 2 if module in self.files else int(module.partition(".")[0] not in sys.stdlib_module_names)


def _from_lines(module: str, names: Iterable[str]) -> Iterator[tuple[tuple[int, str], str]]:
    """The statements that import some names of a module, and their order: a name that gets another has its own."""

    def order(name: str) -> tuple[int, str]:
        constant = name.isupper() and len(name) > 1
        return (0 if constant else 1 if name[:1].isupper() else 2), name.casefold()

    ordered = sorted(names, key=order)
    plain = [name for name in ordered if " as " not in name]
    for some in ([plain] if plain else []) + [[name] for name in ordered if " as " in name]:
        line = f"from {module} import {', '.join(some)}"
        if len(line) > WIDTH:
            line = "\n".join([f"from {module} import (", *(f"    {name}," for name in some), ")"])
        yield order(some[0]), line


def free_names(nodes: Iterable[ast.AST | None], texts: bool = False) -> set[str]:
    """Every name in some syntax; with ``texts`` also those in strings, as annotations may be written."""
    names: set[str] = set()
    for node in (each for top in nodes if top is not None for each in ast.walk(top)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif texts and isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(re.findall(r"[^\W\d]\w*", node.value))
    return names


def _lines(node: ast.expr) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _said(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', type(value).__name__)}"


def _outer(module: Any, path: str) -> Any:
    return getattr(sys.modules.get(str(module)), path.partition(".")[0], None) if path else None


def _attribute(value: Any, names: Iterable[str]) -> Any:
    for name in names:
        value = getattr(value, name, None)
    return value


def _leads_to_us(decorator: ast.expr, scope: dict[str, Any]) -> bool:
    names = [each.id for each in ast.walk(decorator) if isinstance(each, ast.Name)]
    return any(_is_ours(scope.get(name)) for name in names)


def _is_ours(value: Any) -> bool:
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(module).partition(".")[0] == _PACKAGE


def _import_of(name: str, value: Any, home: str, files: dict[str, Path]) -> tuple[str, str] | None:
    """The module and the attribute to import (``""``: the module itself); None where the source has to go along."""
    if isinstance(value, ModuleType):
        if _is_ours(value):
            raise Unfit(f"{home} uses {value.__name__}, which an ejected file cannot import")
        outer, _, last = value.__name__.rpartition(".")
        return (outer, last) if outer else (value.__name__, "")
    module, path = str(getattr(value, "__module__", "")), getattr(value, "__qualname__", "")
    if path and "." not in path and _outer(module, path) is value:
        return _from(_shortest(module, path, value), path, files)
    return _from(home, name, files)


def _from(module: str, name: str, files: dict[str, Path]) -> tuple[str, str] | None:
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if _is_ours(loaded) or (file and file.endswith(".py") and _USES_US.search(_read(file))):
        return None
    if is_of_a_file(module):
        assert file is not None
        stem = Path(file).stem
        if files.setdefault(stem, Path(file)) != Path(file) or stem in ("model", "check"):
            raise Unfit(f"{file} cannot lie beside model.py: another file has its name")
        return stem, name
    if module == "__main__" or not _can_be_imported(module):
        raise Unfit(f"{name} is defined in {module}, which no other process can import; put it into a file of its own")
    return module, name


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _shortest(module: str, name: str, value: Any) -> str:
    """The outermost package that hands a class or function out under its name."""
    parts = module.split(".")
    outer = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return next((each for each in outer if getattr(sys.modules.get(each), name, None) is value), module)


def _can_be_imported(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return spec is not None and (file is None or spec.origin == file)
