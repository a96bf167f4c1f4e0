"""Commands with bad input: what they must say, and that nothing is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from networks import TINY

from sesurgery import __main__


@dataclass(frozen=True)
class Case:
    """A command, the files it finds, and what it must say.

    Attributes:
        words: arguments; ``{d}`` stands for the folder of the test.
        says: regular expressions that the message holds: the place, what is wrong, the remedy.
        code: exit code.
        files: what lies in the folder before, by name; None is a folder.
    """

    words: str
    says: tuple[str, ...]
    code: int = 2
    files: tuple[tuple[str, str | bytes | None], ...] = ()


def tiny_with(*words: str) -> str:
    return " ".join((f"apply {TINY} --recipe standard", *words))


def run(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sesurgery", *words])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def listing(folder: Path) -> dict[str, bytes | None]:
    found = {path: path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


def bad(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a case: one clear message, the right exit code, nothing written."""
    monkeypatch.chdir(tmp_path)
    for file, content in case.files:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content.replace("{d}", str(tmp_path)))
    before = listing(tmp_path)
    words = [word.replace("{d}", str(tmp_path)).replace("''", "") for word in case.words.split()]
    code, out, err = run(words, monkeypatch, capsys)
    assert code == case.code, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "internal error" not in err
    for text in case.says:
        assert re.search(text, err), f"{text!r} is not in {err!r}"
    assert len(err) < 2000
    assert listing(tmp_path) == before
