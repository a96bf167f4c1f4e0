"""What plans, operations and inspections show of themselves: in a terminal, in a notebook, and to a type checker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from networks import Residual
from torch import nn

import sesurgery
from sesurgery.api import Asked, Options
from sesurgery.attention import registry


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Residual(8), Residual(8)

    def forward(self, x):
        return self.two(self.one(x))


SIZE = "8,16,16"


def test_a_plan_prints_as_the_command_line_prints_it() -> None:
    text = str(sesurgery.plan(Net(), "standard", input_size=SIZE))
    assert text.startswith("Net, recipe standard: 2 edits, insert se before residual add\n")
    assert "one.se" in text
    assert "parameters" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_operation_and_an_inspection_print_themselves() -> None:
    surgery = sesurgery.apply(Net(), "standard", input_size=SIZE)
    assert "one.se" in str(surgery)
    assert "stage" in str(sesurgery.inspect(Net(), input_size=SIZE))


def test_notebooks_get_html() -> None:
    surgery = sesurgery.apply(Net(), "standard", input_size=SIZE)
    for thing in (surgery, surgery.plan, sesurgery.inspect(Net(), input_size=SIZE)):
        html = thing._repr_html_()
        assert html.startswith("<pre")
        assert "Net" in html


def test_some_edits_of_a_plan_only() -> None:
    plan = sesurgery.plan(Net(), "standard", input_size=SIZE)
    some = plan.only(lambda edit: edit.path == "two.se")
    assert [edit.path for edit in some.edits] == ["two.se"]
    assert some.skipped[-1].reason == "left out by plan.only"
    assert sesurgery.Plan.from_json(some.to_json()) == some
    model = sesurgery.apply(Net(), some, input_size=SIZE).model
    assert hasattr(model.two, "se")
    assert not hasattr(model.one, "se")
    surgery = sesurgery.apply(Net(), some, input_size=SIZE)
    assert surgery.after.params - surgery.before.params == some.edits[0].params


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"exampel_input": None}, 'there is no argument "exampel_input"; did you mean "example_input"?'),
        ({"stage": 4}, 'there is no argument "stage"; did you mean "stages"?'),
        ({"reductoin": 4}, 'unknown option "reductoin"; did you mean "reduction"'),
    ],
)
def test_a_misspelt_keyword_is_named(wrong: dict[str, object], words: str) -> None:
    for call in (sesurgery.apply, sesurgery.plan):
        with pytest.raises(sesurgery.InputError) as error:
            call(Net(), "standard", input_size=SIZE, **wrong)
        assert words in str(error.value)


def test_type_checkers_know_every_option() -> None:
    shipped = frozenset[str]().union(*(registry.entry(name).accepted for name in registry.names()))
    assert shipped <= set(Options.__annotations__) | set(Asked.__annotations__)


def test_type_checkers_see_the_model_and_a_misspelt_keyword(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "from torch import nn\nimport sesurgery\n"
        "class Net(nn.Module):\n    mine: int = 3\n"
        "good: int = sesurgery.apply(Net(), 'standard', reduction=8).model.mine\n"
        "sesurgery.apply('resnet18', 'standard', stages=4).model.state_dict()\n"
        "sesurgery.apply(Net(), 'standard', stagse=4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "use.py", "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if "error" in line and "use.py:" in line]
    assert errors
    assert all("use.py:7" in line for line in errors), done.stdout
