"""A host's new class: a subclass of its own class whose ``forward`` is generated code.

The class keeps the name of its base, so a model prints as before. It has no importable name, so instances pickle as
their base class plus the source; ``copy.deepcopy``, ``pickle`` and ``torch.save`` go the same way.
"""

from __future__ import annotations

import importlib
import linecache
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Code:
    """Source that defines ``forward``, and what it refers to.

    Attributes:
        source: Python text.
        names: global names of the source (modules, functions); ``base`` is the host's own class where it is asked for.
    """

    source: str
    names: Mapping[str, Any] = field(default_factory=dict)


_CLASSES: dict[Any, type[nn.Module]] = {}


def operated_class(base: type[nn.Module], code: Code) -> type[nn.Module]:
    """The subclass of ``base`` that runs ``code``; hosts with equal code share one class."""
    key = (base, code.source, tuple(sorted((name, id(value)) for name, value in code.names.items())))
    if key not in _CLASSES:
        _CLASSES[key] = _make_class(base, code)
    return _CLASSES[key]


def base_of(module: nn.Module) -> type[nn.Module]:
    """The class a module had before it was operated."""
    return getattr(type(module), "_sesurgery_base", type(module))


def code_of(module: nn.Module) -> Code | None:
    """The code that an operation gave a module as its forward, or None."""
    return getattr(type(module), "_sesurgery_code", None)


def _make_class(base: type[nn.Module], code: Code) -> type[nn.Module]:
    filename = f"<sesurgery {base.__name__}.forward {len(_CLASSES)}>"
    namespace: dict[str, Any] = {**code.names, "base": base}
    exec(compile(code.source, filename, "exec"), namespace)
    linecache.cache[filename] = (len(code.source), None, code.source.splitlines(keepends=True), filename)
    packed = _pack(code.names)

    def reduced(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (base, code.source, packed), self.__dict__

    body = {
        "forward": namespace["forward"],
        "__reduce_ex__": reduced,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_sesurgery_base": base,
        "_sesurgery_code": code,
    }
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), body)


def _pack(names: Mapping[str, Any]) -> tuple[tuple[str, str, Any], ...]:
    """Global names in a form that pickles: a module by its name, everything else as it is."""
    return tuple(
        (name, "module", value.__name__) if isinstance(value, types.ModuleType) else (name, "value", value)
        for name, value in sorted(names.items())
    )


def _rebuild(base: type[nn.Module], source: str, packed: tuple[tuple[str, str, Any], ...]) -> nn.Module:
    names = {name: importlib.import_module(value) if kind == "module" else value for name, kind, value in packed}
    kind = operated_class(base, Code(source, names))
    return kind.__new__(kind)
