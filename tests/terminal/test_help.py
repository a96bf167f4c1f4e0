"""Help is plain text in sections, as wide as the terminal."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from stand_in import run

COMMANDS = "apply preview inspect draw places gates compare search revert merge eject recipes layers completion".split()


@pytest.mark.parametrize("columns", ["40", "60", "80", "120"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_the_terminal(command: str, columns: str) -> None:
    text = run(*command.split(), "--help", env={"COLUMNS": columns}).stdout
    assert text.startswith("Usage: ")
    assert max(map(len, text.splitlines())) <= int(columns)


def test_flags_have_no_type_and_arguments_no_brackets() -> None:
    text = run("apply", "--help").stdout
    assert "<bool>" not in text
    assert re.search(r"^  --pretrained +Start", text, re.MULTILINE)
    assert re.search(r"^  MODEL +resnet50", text, re.MULTILINE)


def test_options_and_commands_stand_in_sections() -> None:
    sections = re.findall(r"^(\w.*):$", run("apply", "--help").stdout, re.MULTILINE)
    assert sections == ["Arguments", "What changes", "Model", "Result", "Checks", "Options"]
    top = run("--help").stdout
    assert re.findall(r"^(\w.*):$", top, re.MULTILINE)[1:] == ["Operate", "Look", "Choose", "Operated models", "Lists"]
    assert all(re.search(rf"^  {command} ", top, re.MULTILINE) for command in COMMANDS)


LIGHT = """
import sys
from sesurgery.cli.app import app
try:
    app(["apply", "--help"])
except SystemExit:
    assert "rich.markdown" not in sys.modules
"""


def test_help_imports_nothing_that_draws_boxes() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True)
    assert done.returncode == 0, done.stderr
