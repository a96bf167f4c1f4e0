"""Pages of measurements say what the stored measurements say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("script", "page"), [("compare_tables", "compare"), ("experiment", "experiment")])
def test_a_measured_page_is_fresh(tmp_path: Path, script: str, page: str) -> None:
    new = tmp_path / "page.md"
    command = [sys.executable, f"benchmarks/{script}.py", "page", str(new)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert new.read_text(encoding="utf-8") == (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
