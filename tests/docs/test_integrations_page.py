"""The code of docs/integrations.md, section by section, where the packages that it needs are installed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import make
from places import ROOT

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
_PARTS = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(_PARTS[1::2], _PARTS[2::2], strict=True))


def code_of(section: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))


def test_every_section_has_code_and_says_what_it_needs() -> None:
    assert len(SECTIONS) >= 11
    assert all("<!-- needs: " in section and "assert " in code_of(section) for section in SECTIONS.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", SECTIONS)
def test_its_code_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = re.findall(r"<!-- needs: (.*) -->", SECTIONS[title])[0].split()
    monkeypatch.setenv("YOLO_CONFIG_DIR", os.environ.get("YOLO_CONFIG_DIR", str(tmp_path)))
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    for package in needs:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if "ultralytics" in needs:
        namespace["data"] = make(tmp_path / "data", count=4)
    file = tmp_path / "shown.py"  # the text of a class has to lie in a file
    file.write_text(code_of(SECTIONS[title]), encoding="utf-8")
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)
