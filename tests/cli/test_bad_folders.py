"""Bad folders: one clear message on the command line, and nothing written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from bad_input import Case, bad, listing, run, tiny_with

CASES: dict[str, Case] = {
    "output that is a file": Case(
        tiny_with("-o {d}/out"), ("out", "is a file", "name a folder"), files=(("out", "mine"),)
    ),
    "output below a file": Case(tiny_with("-o {d}/out/a"), ("out", "is a file"), files=(("out", "mine"),)),
    "output with other files": Case(
        tiny_with("-o {d}/out"), ("holds other files", "new or empty"), files=(("out/thesis.tex", "mine"),)
    ),
    "output with other files, forced": Case(
        tiny_with("-o {d}/out --force"), ("holds other files",), files=(("out/thesis.tex", "mine"),)
    ),
    "output that holds an artefact": Case(
        tiny_with("-o {d}/out"), ("artefact is there", "--force"), files=(("out/surgery.json", "{}"),)
    ),
    "revert of nothing": Case("revert {d}/none -o {d}/out", ("none", "no such folder", "sesurgery.save")),
    "revert of a file": Case("revert {d}/a -o {d}/out", ("is a file",), files=(("a", "mine"),)),
    "revert of another folder": Case("revert {d}/a -o {d}/out", ("no artefact",), files=(("a/b", "mine"),)),
    "revert of a broken artefact": Case(
        "revert {d}/a -o {d}/out", ("no JSON", "again"), files=(("a/surgery.json", "{"),)
    ),
    "revert into a full folder": Case("revert {d}/a -o {d}/b", ("holds other files",), files=(("b/c", "mine"),)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_folders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad(CASES[name], tmp_path, monkeypatch, capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    code, _, err = run(tiny_with("-o", str(tmp_path / "out" / "a")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {"out": None})
    assert "may not be written to" in err


def test_output_without_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    code, _, err = run(tiny_with("-o", str(tmp_path / "out")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {})
    assert re.search("may not be written to.*choose a folder", err)


def test_a_disk_that_fills_up_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(tiny_with("-o", str(tmp_path / "new" / "out")).split(), monkeypatch, capsys)
    assert (code, listing(tmp_path)) == (2, {})
    assert re.search(r"out: cannot be written: No space left.*check", err)
