"""The notebooks run in kernels of their own and print what is stored in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from places import ROOT

HERE = ROOT / "notebooks"
NAMES = (
    "01_quickstart",
    "02_senet_tables",
    "03_shufflenet_rework",
    "04_custom_model",
    "05_yolo",
    "06_own_layer_own_place",
    "07_export_and_eject",
    "08_segmentation",
    "09_from_question_to_recipe",
)


def outputs(name: str) -> list[list[dict[str, Any]]]:
    """The outputs of each code cell."""
    notebook = json.loads((HERE / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_these_are_all() -> None:
    assert sorted(path.stem for path in HERE.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stored(name: str) -> None:
    cells = outputs(name)
    found = [output for cell in cells for output in cell]
    assert sum(bool(cell) for cell in cells) >= len(cells) - 2
    assert {output["output_type"] for output in found} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in found if output.get("name") == "stderr"]
    text = json.dumps(found)
    assert not re.search(r"Warning|Traceback|0x[0-9a-f]{6}", text)
    assert not re.search(r'(?<![\w.<"])/(work|home|root|tmp|usr|Users)/', text)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_stored(name: str) -> None:
    assert any("image/png" in output.get("data", {}) for cell in outputs(name) for output in cell)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_prints_what_is_stored(name: str) -> None:
    command = [sys.executable, str(HERE / "build.py"), "--check", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    if "is left as it is: it needs" in done.stdout:
        pytest.skip(done.stdout)
