"""Bad weights: one clear message on the command line."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from bad_input import Case, bad, tiny_with
from networks import TINY


def with_weights(name: str, data: str | bytes, *says: str) -> Case:
    """A case in which the checkpoint is at fault."""
    words = f"apply {TINY} --recipe standard --weights {{d}}/{name} -o {{d}}/out"
    return Case(words, (re.escape(name), *says), files=((name, data),))


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


SAFE = struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 8


CASES: dict[str, Case] = {
    "model argument that loads weights": Case(tiny_with("--model-arg pretrained=true"), ("--pretrained or --weights",)),
    "weights that are not there": Case(tiny_with("--weights {d}/x.pth"), (r"x\.pth", "no such file", "check the path")),
    "weights that are a folder": Case(
        tiny_with("--weights {d}/x.pth"), (r"x\.pth", "not a file"), files=(("x.pth", None),)
    ),
    "weights by another name": with_weights("x.txt", "hello", "no checkpoint by its name", r"\.safetensors"),
    "empty checkpoint": with_weights("x.pth", b"", "is empty", "save or download"),
    "no checkpoint": with_weights("x.pth", b"hello world", "truncated or no checkpoint"),
    "truncated checkpoint": with_weights("x.pth", b"PK\x03\x04" + b"\0" * 64, "truncated or no checkpoint"),
    "no safetensors": with_weights("x.safetensors", b"\xff" * 32, "truncated or no checkpoint"),
    "truncated safetensors": with_weights("x.safetensors", SAFE[:-3], "truncated or no checkpoint", "save or download"),
    "checkpoint of another model": with_weights(
        "x.safetensors", SAFE, "does not fit the model", "missing", "unexpected"
    ),
    "weights twice": Case(
        tiny_with("--weights {d}/x.pth --pretrained"),
        ("--pretrained and --weights", "give one"),
        files=(("x.pth", b"1"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad(CASES[name], tmp_path, monkeypatch, capsys)
