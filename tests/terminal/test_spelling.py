"""An error says the option on the command line and the argument in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import run

import sesurgery
from sesurgery.errors import InputError
from sesurgery.terminal.spelling import on_the_command_line

NET = "from torch import nn\n\n\ndef net(width):\n    return nn.Sequential(nn.Conv2d(3, width, 3))\n"


def test_a_model_argument_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    reference = f"{tmp_path}/net.py:net"
    with pytest.raises(InputError, match=r'give it: model_args=\{"width": VALUE\}$'):
        sesurgery.inspect(reference)
    assert run("inspect", reference).stderr.endswith("give it: --model-arg width=VALUE\n")


def test_stages_that_are_none() -> None:
    with pytest.raises(InputError, match=r"^stages"):
        sesurgery.plan("resnet18", "standard", stages="four")
    assert run("preview", "resnet18", "-r", "standard", "-s", "four").stderr.startswith("error: --stages")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("is bad", where="weights", remedy="leave them out"), "--weights: is bad; leave them out"),
        (InputError("x", remedy="give one: example_input=..."), "x; give one: --example FILE.py:NAME"),
        (InputError("x", remedy='check model_args={"a": 3, "b": "c d"}'), "x; check --model-arg a=3 --model-arg b=c d"),
        (InputError("weightless", where="weightsheet"), "weightsheet: weightless"),
    ],
)
def test_arguments_become_options(error: InputError, text: str) -> None:
    assert on_the_command_line(error) == text
