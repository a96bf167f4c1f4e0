"""The house stays as drawn: few files a wing, short functions, imports that point down, private names in one place."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

HOUSE = ROOT / "sesurgery"
WINGS = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))
FILES = sorted(HOUSE.rglob("*.py"))
# Every pickled module holds these three, so torch cannot rename them.
TABLES = {"_modules", "_parameters", "_buffers"}


def test_the_package_shows_its_wings_and_few_files() -> None:
    shown = [path for path in HOUSE.iterdir() if path.name != "__pycache__"]
    assert sorted(path for path in shown if path.is_dir()) == WINGS
    assert len([path for path in shown if path.is_file()]) <= 8


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_has_ten_files_at_most(wing: Path) -> None:
    assert len(set(wing.glob("*.py")) - {wing / "__init__.py"}) <= 10
    assert [path for path in wing.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


def test_dependencies_state_a_floor_that_can_be_installed() -> None:
    """.ci/floors reads them, and installs exactly these versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [text for text in project["dependencies"] if not re.fullmatch(r"[\w-]+>=\d[\d.]*", text)] == []


@pytest.mark.parametrize("wing", ["recording", "tracing", "anatomy", "rewriting"])
def test_a_hard_wing_is_drawn_in_its_readme(wing: str) -> None:
    text = (HOUSE / wing / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 10
    assert re.search(r"^    .*──", text, flags=re.MULTILINE)


def lines_of_code(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file with its number of lines, from ``def`` to its end; the docstring is not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = 0 if ast.get_docstring(node) is None else (first.end_lineno or 0) - first.lineno + 1
            yield f"{path.relative_to(HOUSE)}: {node.name}", (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_functions_stay_under_40_lines() -> None:
    assert {name: lines for path in FILES for name, lines in lines_of_code(path) if lines >= 40} == {}


# imports


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


PLANTED = {
    "recording/nested.py": ("from sesurgery.cli import app", "recording is not allowed to import sesurgery.cli"),
    "recipe/phrases.py": ("from sesurgery.recording import nested", "sesurgery.recipe is not allowed to import torch"),
    "report/layout.py": ("import numpy", "sesurgery.report is not allowed to import numpy"),
    "errors.py": ("from sesurgery import plans", "sesurgery.errors is not allowed to import sesurgery.plans"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the package in which some files import what they must not."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(HOUSE, root / "sesurgery", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for path, (line, _) in PLANTED.items():
        with (root / "sesurgery" / path).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = lint(root)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("path", PLANTED)
def test_a_planted_import_is_refused(planted: str, path: str) -> None:
    assert PLANTED[path][1] in planted


# private names


def private_names(path: Path) -> Iterator[str]:
    """The private names of other people's modules, and of other wings, that a file imports or reaches for."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            home, wing = node.module or "", f"sesurgery.{path.parent.name}."
            parts = [*home.split("."), *(alias.name for alias in node.names)]
            if any(is_private(part) for part in parts) and not home.startswith(wing):
                yield f"from {home} import {', '.join(alias.name for alias in node.names)}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if re.match(r"(torch|nn|F|fx|timm|torchvision)\b", owner):
                yield f"{owner}.{node.attr}"


def is_private(name: str) -> bool:
    return re.match(r"_[A-Za-z]", name) is not None and name not in TABLES


def test_private_names_of_torch_and_timm_are_in_one_place() -> None:
    """attention/ stands beside recording/ and has no room for a file more: its one name is where it is used."""
    places = {str(path.relative_to(HOUSE)): list(private_names(path)) for path in FILES}
    del places["recording/compat.py"]
    assert {path: names for path, names in places.items() if names} == {
        "attention/squeeze_excite.py": ["from timm.models._efficientnet_blocks import SqueezeExcite"]
    }


def test_no_test_imports_another_test_or_a_benchmark() -> None:
    """What they share lies in tests/support, which is what both have on their path."""
    closed = {path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    closed -= {path.stem for path in (ROOT / "tests/support").glob("*.py")}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {module.split(".")[0] for module in modules}
            assert not roots & {*closed, "tests", "benchmarks"}, f"{path.name} imports {', '.join(roots)}"
