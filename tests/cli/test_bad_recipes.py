"""Bad recipes: one clear message on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Case, bad, tiny_with
from networks import TINY

GOOD = "rules:\n  - insert: {module: se}\n    at: before residual add\n"


BOMB = "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nrules: [*c, *c]\n"


def on(recipe_text: str | bytes, *says: str, code: int = 2) -> Case:
    """A case in which the recipe file is at fault."""
    return Case(f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", *says), code, (("mine.yaml", recipe_text),))


PLAIN = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"


CASES: dict[str, Case] = {
    "unknown recipe": Case(f"apply {TINY} --recipe standart", ('recipe "standart"', 'did you mean "standard"')),
    "no recipe": Case(f"apply {TINY}", ("--recipe", "--help")),
    "empty recipe": on("", "mapping|empty", "rules"),
    "recipe of a scalar": on("standard\n", "mapping"),
    "recipe without rules": on("name: x\n", "rules"),
    "malformed yaml": on("rules: [\n", "check"),
    "tabs": on("rules:\n\t- insert: se\n", "tabs"),
    "tag that constructs": on("rules: !!python/object/apply:os.system ['touch {d}/ran']\n", "tag"),
    "tag of one's own": on("!recipe\nrules: []\n", "tag"),
    "alias bomb": on(BOMB, "alias|anchor"),
    "merge keys": on("rules:\n  - <<: {at: end of block}\n", "merge keys"),
    "key twice": on(f"name: a\nname: b\n{GOOD}", "twice", "remove one"),
    "two documents": on(f"---\n{GOOD}---\n{GOOD}", "one recipe per file"),
    "enormous yaml": on("# x\n" * 1_000_000 + GOOD, "MiB|KiB|large|bytes"),
    "deep yaml": on("rules: " + "[" * 5000 + "]" * 5000, "deep|nested"),
    "huge number": on(GOOD.replace("se}", f"se, reduction: {'9' * 5000}}}"), "number|digits|usable"),
    "not utf-8": on(b"rules: \xff\xfe\x80", r"UTF-8|utf-8|text"),
    "binary file": on(bytes(range(256)) * 8, "text|character|UTF-8"),
    "unknown phrase": on(
        GOOD.replace("residual add", "residul add"), r"rules\[0\]", 'did you mean "before residual add"'
    ),
    "unknown key": on(GOOD + "    wheer: {stages: 1}\n", r"rules\[0\]", "wheer", "where"),
    "unknown condition": on(GOOD + "    where: {chanels: 3}\n", r"rules\[0\]", "channels"),
    "rule that does nothing": on("rules:\n  - at: end of block\n", r"rules\[0\]", "insert"),
    "unknown module in a recipe": on(GOOD.replace("se}", "see}"), r"rules\[0\]", "see"),
    "recipe that is not there": Case(f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", "no such file")),
    "recipe that is a folder": Case(
        f"apply {TINY} --recipe {{d}}/mine.yaml", (r"mine\.yaml", "folder|directory"), files=(("mine.yaml", None),)
    ),
    "check of no recipe": Case("recipes check {d}/mine.yaml", (r"mine\.yaml", "rules"), files=(("mine.yaml", "a: 1"),)),
    "show of no recipe": Case("recipes show standrad", ("standrad", 'did you mean "standard"')),
    "recipe that matches nothing": Case(
        "apply {d}/net.py:net --recipe standard",
        ("matched nothing", "no merges", "sesurgery inspect"),
        3,
        (("net.py", PLAIN),),
    ),
    "recipe that is left no place": Case(tiny_with("--set rd_channels=8 --stages 1 --module ese"), ("rd_channels",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_recipes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad(CASES[name], tmp_path, monkeypatch, capsys)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 29
