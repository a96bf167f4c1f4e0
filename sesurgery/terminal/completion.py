"""What the shell offers for TAB: names that are read from files, so that no torch is imported for a key stroke.

Names of models are read out of the sources of timm and torchvision as they are installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sesurgery.errors import UnknownNameError

SHELLS = ("bash", "zsh", "fish")
Complete = Callable[[str], list[str]]

_TIMM = re.compile(r"^@register_model\s*\ndef (\w+)", re.MULTILINE)
_TORCHVISION = re.compile(
    r"^@register_model\(\s*(?:name=[\"'](\w+)[\"'])?\s*\)\s*\n(?:@.*\n|[ )].*\n)*def (\w+)", re.MULTILINE
)


def script(command: Any, shell: str) -> str:
    """What ``shell`` has to read so that it completes the command. Raises ``UnknownNameError`` for another shell."""
    if shell not in SHELLS:
        raise UnknownNameError("shell", shell, SHELLS, remedy=f"it is one of {', '.join(SHELLS)}")
    from typer.completion import completion_init, shell_complete

    completion_init()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        shell_complete(command, {}, "sesurgery", "_SESURGERY_COMPLETE", f"source_{shell}")
    return printed.getvalue().rstrip()


def model_names() -> list[str]:
    """Every model of timm and torchvision, by the names that both give them."""
    names = {name for text in _sources("timm") for name in _TIMM.findall(text)}
    names.update(given or name for text in _sources("torchvision") for given, name in _TORCHVISION.findall(text))
    return sorted(names)


def models(incomplete: str) -> list[str]:
    """Names of models; of what looks like a path nothing, so that the shell offers files."""
    if "/" in incomplete or incomplete.startswith("."):
        return []
    library, colon, rest = incomplete.rpartition(":")
    begin = f"{library}:" if colon and library in ("timm", "torchvision") else ""
    return [f"{begin}{name}" for name in model_names() if name.startswith(rest if begin else incomplete)]


def recipes(incomplete: str) -> list[str]:
    """Names of recipes; files of one's own the shell offers."""
    from sesurgery.recipe.recipe import recipe_names

    return _begin(incomplete, recipe_names())


def layers(incomplete: str) -> list[str]:
    """Names of layers."""
    from sesurgery.attention.registry import names

    return _begin(incomplete, names())


def phrases(incomplete: str) -> list[str]:
    """Phrases of ``at:``."""
    from sesurgery.recipe.phrases import PHRASES

    return _begin(incomplete, PHRASES)


def settings(ctx: Any, incomplete: str) -> list[str]:
    """``KEY=`` for the options of the layer of ``--module``, of every layer without one; ``KEY=VALUE`` behind a key."""
    from sesurgery.attention.registry import REGISTRY, choices

    given = str((ctx.params or {}).get("module"))
    entries = [REGISTRY.find(given)] if given in REGISTRY else list(REGISTRY.values())
    key, equals, _ = incomplete.partition("=")
    if not equals:
        return _begin(incomplete, sorted({f"{option}=" for entry in entries for option in entry.accepted}))
    words = next((choices(entry, key) for entry in entries if key in entry.accepted), "-")
    return _begin(incomplete, (f"{key}={word}" for word in words.split(", ") if re.fullmatch(r"[\w+]+", word)))


def among(*words: str) -> Complete:
    """Offers these words."""
    return lambda incomplete: _begin(incomplete, words)


def each_of(complete: Complete) -> Complete:
    """Offers for the last part of a list with commas what ``complete`` offers for a word."""

    def offered(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{word}" for word in complete(last)]

    return offered


def _begin(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]


def _sources(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)  # a package at the top is not imported for that
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted((Path(folder) / "models").rglob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
