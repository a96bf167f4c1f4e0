"""The table of files in docs/architecture.md: what each holds, in the order in which they import one another."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sesurgery"
_BETWEEN = re.compile(r"(<!-- files: [^\n]* -->\n).*?(<!-- end of files -->)", re.DOTALL)


def with_files(page: str) -> str:
    """The page with the table between its marks renewed."""
    rows = [f"| `{path.name}` | {level} | {_first_line(path)} |" for level, path in levels()]
    table = "\n".join(["| file | level | what it holds |", "|---|---:|---|", *rows])
    return _BETWEEN.sub(lambda marks: f"{marks[1]}{table}\n{marks[2]}", page)


def levels() -> list[tuple[int, Path]]:
    """Every file with its level: 0 imports no other file, n imports only lower ones.

    Imports inside of functions and for type checkers do not count: they are what keeps torch out of quick commands.

    Raises:
        ImportError: imports run in circles.
    """
    files = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    needs = {name: _imports(path, files) - {name} for name, path in files.items()}
    level: dict[str, int] = {}
    while len(level) < len(files):
        free = [name for name in files if name not in level and needs[name] <= level.keys()]
        ready = {name: 1 + max((level[need] for need in needs[name]), default=-1) for name in free}
        if not ready:
            raise ImportError(f"imports run in circles: {sorted(files.keys() - level.keys())}")
        level.update(ready)
    return sorted(((level[name], path) for name, path in files.items()), key=lambda row: (row[0], row[1].name))


def _imports(path: Path, files: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            home = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
            own = node.level == 1 or (node.module or "").split(".")[0] == "sesurgery"
            if own:
                found |= {home[0]} if home and home[0] else {alias.name for alias in node.names}
    return found & files.keys()


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.sub(r":class:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text.partition("\n")[0])
    return first.replace("``", "`").replace("|", "\\|")
