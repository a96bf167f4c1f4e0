"""Performing and undoing: the only code that changes a model.

All or nothing: every new module is built before the first change, and each change is undone if a later one fails.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from sesurgery.errors import InputError
from sesurgery.operating.actions import Action, EditGraph, SetChild, SetMethods
from sesurgery.operating.backup import HOST_MARK, MODEL_MARK, Absent, HostMark, drop_mark, mark_of, set_mark
from sesurgery.operating.distributed import refuse_revert
from sesurgery.operating.edited_class import become, edited_class, unedited_class
from sesurgery.operating.graph_modules import insert_calls, remove_calls
from sesurgery.words.paths import outwards


def perform(model: nn.Module, actions: Sequence[Action]) -> None:
    """Carry out ``actions`` on ``model`` in place.

    New modules lie where their host's weights lie, in its mode and in the dtype of what they act on. An exception at
    any step leaves the model as it was, down to the order of its attributes, and the CPU's random numbers where they
    were.
    """
    draws = torch.get_rng_state()
    saved: dict[nn.Module, _Snapshot] = {}
    try:
        built = _build(model, actions)
        for action, child in zip(actions, built, strict=True):
            host = model.get_submodule(action.host)
            if host not in saved:
                saved[host] = _Snapshot(host)
            if isinstance(action, EditGraph):
                _edit_graph(host, action)
            elif isinstance(action, SetMethods):
                _set_methods(host, action)
            elif child is not None:
                _set_child(host, action, child)
    except BaseException:
        for snapshot in reversed(saved.values()):
            snapshot.restore()
        torch.set_rng_state(draws)
        raise


def revert(model: nn.Module) -> nn.Module:
    """Undo every operation on ``model``, in place, and return it: its classes, attributes and keys are the old ones.

    Weights that were there before keep the values they have now; inserted layers go. All is checked first.

    Raises:
        InputError: ``model`` was never operated on, or the class of a host was changed since; then nothing happens.
        ModelError: a wrapper counts on its layers in other processes (DDP).
    """
    marked = [module for module in model.modules() if mark_of(module) is not None]
    if not marked and MODEL_MARK not in model.__dict__:
        raise InputError(
            "there is nothing to undo: no operation has changed this model",
            where=type(model).__name__,
            remedy="pass the model that sesurgery.apply returned (surgery.model)",
        )
    refuse_revert(model)
    while marked:
        kinds = [unedited_class(type(module)) for module in marked]
        for module, kind in zip(marked, kinds, strict=True):
            _revert_host(module, kind)
        # What comes back with a host may have been operated on before the host lost it.
        marked = [module for module in model.modules() if mark_of(module) is not None]
    for module in model.modules():  # a part may have been operated on by itself
        drop_mark(module, MODEL_MARK)
    return model


def _build(model: nn.Module, actions: Sequence[Action]) -> list[nn.Module | None]:
    """The child of each action that sets one."""
    built: list[nn.Module | None] = []
    latest: dict[tuple[str, str], nn.Module] = {}
    for action in actions:
        if not isinstance(action, SetChild):
            built.append(None)
            continue
        place = (action.host, action.name)
        host = _submodule(model, action.host, latest)
        old = latest.get(place, host._modules.get(action.name))
        device, dtype = _home(model, action.host)
        with _made_on(device):
            child = action.make(old, *(_submodule(model, source, latest) for source in action.sources))
        child.to(device=device, dtype=action.dtype or (dtype if dtype.is_floating_point else None))
        child.train(host.training)
        latest[place] = child
        built.append(child)
    return built


def _made_on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where new tensors are to lie; torch's way of saying so slows every call down, so it is said only if needed."""
    return contextlib.nullcontext() if device == torch.get_default_device() else torch.device(device)


def _submodule(model: nn.Module, path: str, latest: dict[tuple[str, str], nn.Module]) -> nn.Module:
    """The module at ``path`` as it will be once the children built so far are in place."""
    module = model
    for inner in reversed(outwards(path)[:-1]):
        host, _, name = inner.rpartition(".")
        module = latest.get((host, name)) or module.get_submodule(name)
    return module


def _home(model: nn.Module, path: str) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the nearest weights: the host's own, else those of the modules around it."""
    for outer in outwards(path):
        try:
            module = model.get_submodule(outer)
        except AttributeError:
            continue
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.get_default_device(), torch.get_default_dtype()


def _mark(host: nn.Module) -> HostMark:
    mark = mark_of(host)
    if mark is None:
        mark = HostMark(tuple(host._modules), fields=tuple(host.__dict__))
    return replace(mark, attributes=dict(mark.attributes))


def _set_child(host: nn.Module, action: SetChild, child: nn.Module) -> None:
    mark = _mark(host)
    name = action.name
    if name not in mark.attributes:
        if name in host._modules:
            mark.attributes[name] = ("module", host._modules[name])
        elif name in host.__dict__:
            mark.attributes[name] = ("plain", host.__dict__[name])
        else:
            mark.attributes[name] = ("absent", Absent())
    mark.layers = tuple(layer for layer in mark.layers if layer != name) + ((name,) if action.attention else ())
    host.__dict__.pop(name, None)
    host._modules[name] = child
    set_mark(host, HOST_MARK, mark)


def _edit_graph(host: nn.Module, action: EditGraph) -> None:
    assert isinstance(host, GraphModule)
    set_mark(host, HOST_MARK, _mark(host))
    insert_calls(host, action.calls)


def _set_methods(host: nn.Module, action: SetMethods) -> None:
    set_mark(host, HOST_MARK, _mark(host))
    become(host, edited_class(type(host), action.methods))


def _revert_host(host: nn.Module, kind: type[nn.Module]) -> None:
    mark: HostMark = drop_mark(host, HOST_MARK)
    if isinstance(host, GraphModule):
        remove_calls(host, mark.layers)
    become(host, kind)
    for name, (kind, value) in mark.attributes.items():
        replaced = host._modules.pop(name, None)
        if kind == "plain":
            host.__dict__[name] = value
        elif kind == "module":
            host._modules[name] = _brought_along(value, replaced, host)
    _reorder(host._modules, mark.order)
    _reorder(host.__dict__, mark.fields)


def _reorder(fields: dict[str, Any], order: Sequence[str]) -> None:
    """The old names in their old order, then those that came later."""
    old = dict(fields)
    fields.clear()
    fields.update({name: old[name] for name in dict.fromkeys((*order, *old)) if name in old})


def _brought_along(old: nn.Module | None, replaced: nn.Module | None, host: nn.Module) -> nn.Module | None:
    """A module that comes back, on the device and in the dtype and mode that the model has now."""
    if old is None:
        return None
    near = [*(replaced.parameters() if replaced is not None else ()), *host.parameters()]
    reference = next(iter(near), None)
    mine = next(iter(old.parameters()), None)
    if reference is not None and mine is not None and (reference.device, reference.dtype) != (mine.device, mine.dtype):
        old.to(device=reference.device, dtype=reference.dtype)
    return old.train(host.training) if old.training != host.training else old


class _Snapshot:
    """The state of one module that an action may change, and how to bring it back."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.fields = dict(module.__dict__)
        self.children = dict(module._modules)

    def restore(self) -> None:
        if isinstance(self.module, GraphModule):
            remove_calls(self.module, self.module._modules.keys() - self.children.keys())
        object.__setattr__(self.module, "__class__", self.kind)
        self.module.__dict__.clear()
        self.module.__dict__.update(self.fields)
        self.module._modules.clear()
        self.module._modules.update(self.children)
