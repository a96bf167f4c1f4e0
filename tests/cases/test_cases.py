"""Small models that were operated wrongly once: each file beside this one prints PASS, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"
FILES = sorted(file.stem for file in HERE.glob("*.py") if not file.stem.startswith("test_"))

# What the phrases of the recipes and the anatomy cannot do yet.
NOT_YET = {}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """By name of the file: its exit status and what it printed."""
    written = tmp_path_factory.mktemp("cases") / "results.json"
    files = [str(HERE / f"{name}.py") for name in FILES]
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    command = [sys.executable, str(SUPPORT / "each_in_a_process.py"), str(written), *files]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
    return {Path(file).stem: tuple(result) for file, result in json.loads(written.read_text()).items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=NOT_YET[name]) if name in NOT_YET else ())
        for name in FILES
    ],
)
def test_case(name: str, results: dict[str, tuple[int, str]]) -> None:
    status, printed = results[name]
    assert (status, printed.splitlines()[-1:]) == (0, ["PASS"]), printed
