"""What an operation leaves on a model so that it can be undone: one plain attribute on each host it changed.

The marks travel with the model through ``deepcopy``, ``pickle`` and ``torch.save``, and go when it is reverted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import GraphModule

from sesurgery.errors import ArtifactError
from sesurgery.operating.guards import stand_guard
from sesurgery.words.paths import join

HOST_MARK = "_sesurgery_host"
MODEL_MARK = "_sesurgery_history"
_COPIED = "_user_preserved_attributes"  # where torch.fx looks for what a copy of a GraphModule is to keep


class Absent:
    """Stands for an attribute that was not there. Compares equal to itself after pickling."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Absent)

    def __hash__(self) -> int:
        return hash(Absent)


@dataclass
class HostMark:
    """What a host was before it was operated.

    Attributes:
        order: names of its children, in order.
        fields: names of its plain attributes, in order.
        attributes: the first value of each attribute that was exchanged (``Absent()`` where there was none). A module
            here is no child of the host any more: its weights are not in the state_dict.
        layers: names of the children that operations inserted as attention.
    """

    order: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        stand_guard()  # an operated model that comes from a file may be trained in a process that operates on none


def mark_of(module: nn.Module) -> HostMark | None:
    """The mark of an operated host, or None."""
    return module.__dict__.get(HOST_MARK)


def set_mark(module: nn.Module, name: str, value: Any) -> None:
    """Leave a mark on ``module``."""
    stand_guard()
    module.__dict__[name] = value
    if isinstance(module, GraphModule):
        meta = module.__dict__.get("meta") or {}
        module.__dict__["meta"] = {**meta, _COPIED: {**meta.get(_COPIED, {}), name: value}}


def drop_mark(module: nn.Module, name: str) -> Any:
    """Take a mark away; returns it, or None."""
    if isinstance(module, GraphModule):
        meta = dict(module.__dict__.get("meta") or {})
        kept = {key: value for key, value in meta.pop(_COPIED, {}).items() if key != name}
        module.__dict__["meta"] = {**meta, _COPIED: kept} if kept else meta
    return module.__dict__.pop(name, None)


def without_history(model: nn.Module, otherwise: str = "give what sesurgery.apply returned") -> tuple[str, str]:
    """Why a model that bears no history has none, and what to do: ``otherwise`` where it was never operated on."""
    inner = next((path for path, part in model.named_modules() if MODEL_MARK in part.__dict__), None)
    if inner is not None:
        return f"the operated model lies inside of this one, at {inner}", f"give that: model.{inner}"
    if any(mark_of(part) is not None for part in model.modules()):
        return "its layers came by an operation on a larger model, which held it", _ITSELF
    return "no operation has changed this model", otherwise


def is_operated(model: object) -> bool:
    """Whether ``model``, a part of it or a larger model that held it was operated on."""
    return isinstance(model, nn.Module) and any(
        MODEL_MARK in part.__dict__ or mark_of(part) is not None for part in model.modules()
    )


def check_told(model: nn.Module) -> None:
    """Raise ``ArtifactError`` where ``model`` has edited hosts that no history in it tells of: it was unwrapped."""
    told = {module for part in model.modules() if MODEL_MARK in part.__dict__ for module in part.modules()}
    if any(mark_of(module) is not None and module not in told for module in model.modules()):
        problem = "its layers came by an operation on a larger model, which held it"
        raise ArtifactError(problem, where=type(model).__name__, remedy=_ITSELF)


_ITSELF = "operate on this model itself, before it is wrapped; or give the larger one"


def inserted_layers(model: nn.Module) -> set[nn.Module]:
    """The attention layers that operations have put into ``model`` so far."""
    layers: set[nn.Module] = set()
    for module in model.modules():
        mark = mark_of(module)
        if mark is not None:
            layers.update(child for name in mark.layers if (child := module._modules.get(name)) is not None)
    return layers


def changed_children(model: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    """The modules that operations have put into ``model`` so far, each with the one that it took the place of."""
    children: list[tuple[nn.Module, nn.Module | None]] = []
    for module in model.modules():
        mark = mark_of(module)
        for name, (kind, old) in ({} if mark is None else mark.attributes).items():
            child = module._modules.get(name)
            if child is not None:
                children.append((child, old if kind == "module" else None))
    return children


def changes_of(model: nn.Module) -> tuple[str, ...]:
    """What operations have changed in ``model`` so far: paths of children, and of hosts with edited methods."""
    changes: list[str] = []
    for path, module in model.named_modules():
        mark = mark_of(module)
        if mark is not None:
            changes += [join(path, name) for name in mark.attributes if name in module._modules]
            if getattr(type(module), "_sesurgery_methods", ()):
                changes.append(path)
    return tuple(sorted(changes))
