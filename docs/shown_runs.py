"""Outputs shown in a Markdown page, taken from real runs.

``<!-- run: sesurgery recipes -->`` before a fenced block: the block is what the command prints (``| head -9``: so many
lines of it).
``<!-- run: python -->``: it is what the Python blocks before it print; they share one namespace.
``<!-- file: mine.yaml -->`` before a fenced block: the block is a file that later commands may name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARK = r"(?P<mark><!-- (?P<verb>run|file): (?P<what>[^\n]*?) -->\n)?"
_FENCED = r"(?P<fence>```(?P<kind>\w*)\n)(?P<body>.*?)(?P<end>^```$)"
_BLOCK = re.compile(_MARK + _FENCED, re.DOTALL | re.MULTILINE)
_SVG_TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def as_shown(page: str, files: dict[str, str] | None = None) -> str:
    """The page with every shown output renewed.

    Args:
        page: Markdown.
        files: files that commands may name, beside those that the page itself shows.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    pending: list[str] = []
    with _elsewhere(files or {}):

        def renewed(block: re.Match[str]) -> str:
            body = block["body"]
            if block["verb"] == "file":
                Path(block["what"]).write_text(body, encoding="utf-8")
            elif block["verb"] == "run" and block["what"] == "python":
                body = _ran(pending, namespace)
            elif block["verb"] == "run":
                body = command_output(block["what"])
            elif block["kind"] == "python":
                pending.append(body)
            return f"{block['mark'] or ''}{block['fence']}{body}{block['end']}"

        return _BLOCK.sub(renewed, page)


def command_output(command: str, width: int = 100) -> str:
    """What a ``sesurgery`` command prints on stdout, without spaces at the ends of lines; errors are shown too."""
    from sesurgery.cli.app import app

    command, _, head = command.partition(" | head -")
    words = shlex.split(command)
    assert words.pop(0) == "sesurgery", command
    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            app(args=words, prog_name="sesurgery")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    text = _trimmed(printed.getvalue().replace(f"{Path.cwd()}{os.sep}", ""))
    return "".join(text.splitlines(keepends=True)[: int(head)]) if head else text


def texts_of(svg: str) -> list[str]:
    """The words of a picture, without its styles."""
    return _SVG_TEXT.findall(svg)


def _ran(pending: list[str], namespace: dict[str, Any]) -> str:
    import torch

    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in pending:
            file = Path(f"mine{len(namespace)}.py")  # the text of a class has to lie in a file
            file.write_text(code, encoding="utf-8")
            exec(compile(code, str(file), "exec"), namespace)
    pending.clear()
    return _trimmed(printed.getvalue())


def _trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


@contextlib.contextmanager
def _elsewhere(files: dict[str, str]) -> Iterator[None]:
    """Run in an empty folder, so that nothing of a run stays behind."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name, text in files.items():
                Path(name).write_text(text, encoding="utf-8")
            yield
        finally:
            os.chdir(before)
