"""Things by name: attention layers, phrases, placements, actions of rules, kinds of edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from sesurgery.errors import InputError, UnknownNameError
from sesurgery.words.text import shown
from sesurgery.words.user_code import load_plugins

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    name: str
    thing: T
    origin: str | None


class Registry(Mapping[str, T]):
    """What ships with the package, and what users add to it, in order.

    Args:
        kind: how messages call one thing.
        key: what counts of the spelling of a name; names that give the same text are the same name.
    """

    def __init__(self, kind: str, key: Callable[[str], str] = str) -> None:
        self.kind = kind
        self._key = key
        self._entries: dict[str, _Entry[T]] = {}

    def add(self, name: str, thing: T, origin: str | None = None) -> None:
        """Register a thing. One of the same origin gives way, so that a notebook's cell can run twice.

        Args:
            origin: the file or module of the user's that defines it; None for what ships.

        Raises:
            InputError: the name is taken.
        """
        known = self._entries.pop(self._key(name), None)
        if known is not None and (known.origin is None or known.origin != origin):
            self._entries[self._key(name)] = known
            whose = f" of {known.origin}" if known.origin else ""
            problem = f'the {self.kind} "{known.name}"{whose} is already there'
            raise InputError(problem, where=origin, remedy="choose another name")
        self._entries[self._key(name)] = _Entry(name, thing, origin)

    def find(self, name: str, where: str | None = None) -> T:
        """The thing of that name, which a plugin may have to bring. Raises ``UnknownNameError`` with the nearest."""
        return self[self.canonical(name, where)]

    def canonical(self, name: str, where: str | None = None) -> str:
        """The registered spelling of ``name``. Raises ``UnknownNameError``."""
        problems = load_plugins() if name not in self else ()
        if name not in self:
            remedy = f"known {self.kind}s: {', '.join(self)}"
            raise UnknownNameError(self.kind, shown(name), self, where=where, remedy=remedy, also=problems)
        return self._entries[self._key(name)].name

    def origin(self, name: str) -> str | None:
        """The file or module of the user's that defines a thing; None for what ships and for what is not here."""
        return self._entries[self._key(name)].origin if name in self else None

    def __getitem__(self, name: str) -> T:
        return self._entries[self._key(name)].thing

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
