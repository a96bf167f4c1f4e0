"""What TAB offers, in each shell, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import ClassVar

import pytest
import timm
import torchvision
from stand_in import run

from sesurgery.attention.registry import names
from sesurgery.recipe.phrases import PHRASES
from sesurgery.recipe.recipe import recipe_names
from sesurgery.terminal import completion

WITHOUT_TORCH = """
import sys
from sesurgery.cli.app import app
try:
    app(prog_name="sesurgery")
finally:
    heavy = {"torch", "timm", "torchvision", "numpy"} & set(sys.modules)
    assert not heavy, heavy
"""


def offered(line: str, shell: str = "bash") -> list[str]:
    """What the shell's completion function would get for a line."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env={**os.environ, **asked, "_SESURGERY_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_the_names_of_models_are_those_of_the_libraries() -> None:
    # Other tests put operated models into timm's registry.
    of_timm = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert set(completion.model_names()) == {*of_timm, *torchvision.models.list_models()}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_is_offered_models_and_its_script_is_printed(shell: str) -> None:
    assert "resnet50_gn" in "".join(offered("sesurgery apply resnet50_g", shell))
    assert "_SESURGERY_COMPLETE" in run("completion", shell).stdout


def test_another_shell_is_bad_input() -> None:
    result = run("completion", "fsh")
    assert (result.exit_code, result.stderr) == (2, 'error: unknown shell "fsh"; did you mean "fish" or "zsh"?\n')


def test_commands_options_recipes_and_layers_are_offered() -> None:
    assert offered("sesurgery ins") == ["inspect"]
    assert offered("sesurgery apply resnet18 --recipe sta") == ["standard"]
    assert offered("sesurgery compare resnet18 --module se,ec") == ["se,eca", "se,ecam"]


def test_the_words_are_all_that_there_are() -> None:
    assert completion.recipes("") == recipe_names()
    assert completion.layers("") == list(names())
    assert completion.phrases("") == list(PHRASES)
    assert completion.models("timm:resnet18d") == ["timm:resnet18d"]
    assert completion.models("./net") == []


class Context:
    params: ClassVar = {"module": "eca"}


def test_settings_are_those_of_the_layer() -> None:
    assert completion.settings(Context(), "") == ["gate=", "init=", "kernel_size="]
    assert completion.settings(Context(), "init=p") == ["init=paper"]
