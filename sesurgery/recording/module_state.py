"""What modules hold in their attributes: noted before a forward, compared and put back after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import Any

from torch import nn

TABLES = frozenset(("_parameters", "_buffers", "_modules"))
_HOOKS = frozenset(nn.Module().__dict__) - TABLES - {"training"}
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """An attribute that was set, or a list, dict or set in one that was filled or emptied.

    Attributes:
        module, name: whose attribute.
        now, before: what the list, dict or set holds; None where the attribute itself was set.
    """

    module: nn.Module
    name: str
    now: Any = None
    before: Any = None


class Attributes:
    """The attributes of some modules as they are now, with the contents of lists, dicts and sets among them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._held = [(module, dict(module.__dict__)) for module in modules]
        self._boxes = [
            (module, name, box, _contents(box))
            for module, held in self._held
            for name in held.keys() - _HOOKS
            if isinstance(box := held[name], (list, dict, set))
        ]

    def changes(self) -> Iterator[Change]:
        """What is, or holds, something else now."""
        for module, held in self._held:
            now = module.__dict__
            if not _same(now, held):
                for name in {**held, **now}:
                    if now.get(name, _ABSENT) is not held.get(name, _ABSENT):
                        yield Change(module, name)
        for module, name, box, old in self._boxes:
            if not _same(box, old):
                yield Change(module, name, box, old)

    def restore(self) -> None:
        """Put everything back."""
        for module, held in self._held:
            _put_back(module.__dict__, held)
        for _, _, box, old in self._boxes:
            _put_back(box, old)


@contextlib.contextmanager
def kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Whatever happens meanwhile, the modules hold the same objects afterwards (not the same numbers in tensors)."""
    before = Attributes(modules)
    try:
        yield
    finally:
        before.restore()


def _contents(box: Any) -> Any:
    return dict(box) if isinstance(box, dict) else list(box)


def _same(box: Any, old: Any) -> bool:
    if len(box) != len(old):
        return False
    if isinstance(box, dict):
        return all(map(is_, box.values(), old.values())) and list(box) == list(old)
    return all(map(is_, box, old))


def _put_back(box: Any, old: Any) -> None:
    if not _same(box, old):
        box.clear()
        box.extend(old) if isinstance(box, list) else box.update(old)
