"""Paths of modules, ``layer1.0.conv2``; the model itself is the empty path. No torch."""

from __future__ import annotations


def outwards(path: str) -> tuple[str, ...]:
    """A path and those of all modules around it, the innermost first: ``("a.b", "a", "")``."""
    parts = path.split(".") if path else []
    return tuple(".".join(parts[:end]) for end in range(len(parts), -1, -1))


def join(host: str, name: str) -> str:
    """The path of what a host calls ``name``."""
    return f"{host}.{name}" if host and name else host or name


def below(path: str, outer: str) -> bool:
    """Whether a module lies inside another one, and is not that one. The model as a whole is not counted as another."""
    return bool(outer) and path.startswith(f"{outer}.")


def within(path: str, outer: str) -> bool:
    """Whether a module lies inside another one or is that one."""
    return path == outer or below(path, outer)
