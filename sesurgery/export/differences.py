"""What makes an operated model of its base, as lines of Python: classes, layers and settings, host by host."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sesurgery.errors import StalePlanError, Unfit
from sesurgery.export.constructors import (
    Call,
    alike,
    call_from_attributes,
    call_text,
    recorded,
    settings,
    tensors,
    value_text,
)
from sesurgery.export.methods import class_text
from sesurgery.export.names import Names
from sesurgery.operating.backup import mark_of
from sesurgery.operating.edited_class import edited_methods, original_class
from sesurgery.operating.graph_modules import graphs_of
from sesurgery.plans import AttentionLayer, Plan, Substitute, SwapChild
from sesurgery.substitutes.registry import make
from sesurgery.words.paths import join, outwards, within
from sesurgery.words.text import reason

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass
class Differences:
    """Collects the lines. ``before`` and ``after`` are the whole model, without and with its operations.

    Attributes:
        plans: what was done, oldest first.
        classes: sources of the edited classes.
        lines: by path of a host, statements about ``host``; outer hosts come first.
        needs_base: whether a line speaks of ``base``, a copy of the model as it was.
        graphs: whether a line calls ``call_in_graphs``.
    """

    before: nn.Module
    after: nn.Module
    plans: tuple[Plan, ...]
    names: Names = field(default_factory=Names)
    classes: list[str] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    needs_base: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        self._substitutes = dict(_substitutes(self.plans))
        self._moved = dict(_originals(self.before, self.after, ""))
        self._kinds: dict[type[nn.Module], str] = {}
        self._seen: set[int] = set()
        self._texts: dict[str, str] = {}
        self._made: dict[str, tuple[nn.Module, Mapping[int, Call]]] = {}
        self._zeros: dict[str, list[str]] = {}
        self._walk(self.before, self.after, "")

    def _walk(self, before: nn.Module, after: nn.Module, path: str) -> None:
        if id(after) in self._seen:
            return
        self._seen.add(id(after))
        try:
            lines = [*self._class_lines(after), *self._setting_lines(before, after)]
            children = [self._child(before, after, name, path) for name in after._modules]
            gone = [f"del host.{name}" for name in before._modules if name not in after._modules]
        except Unfit as unfit:
            raise unfit if isinstance(unfit, _PlacedError) else _PlacedError(path, unfit) from None
        lines += [line for child_lines, *_ in children for line in child_lines] + gone
        lines += self._graph_lines(after)
        if lines:
            self.lines[path] = lines
        for _, old, name in children:
            new = after._modules[name]
            if old is not None and new is not None:
                self._walk(old, new, join(path, name))

    def _class_lines(self, after: nn.Module) -> list[str]:
        kind = type(after)
        if not edited_methods(kind):
            return []
        if kind not in self._kinds:
            name = self.names.define(_class_name(after), kind)
            self._kinds[kind] = name
            self.classes.append(class_text(kind, name, self.names))
        held = [
            f"host.{name} = host.{value.__func__.__name__}"
            for name, value in after.__dict__.items()
            if getattr(value, "__self__", None) is after and hasattr(kind, getattr(value, "__name__", ""))
        ]
        return [f"host.__class__ = {self._kinds[kind]}", *held]

    def _setting_lines(self, before: nn.Module, after: nn.Module) -> list[str]:
        old, new = settings(before), settings(after)
        if any(isinstance(value, Tensor) for name, value in after.__dict__.items() if name not in before.__dict__):
            # A forward has left tensors here, which are made anew: what came with them (their shape) is no setting.
            new = {name: value for name, value in new.items() if name in before.__dict__}
        lines = [
            f"host.{name} = {self.value(value)}"
            for name, value in new.items()
            if (name not in old or old[name] != value) and name not in before._modules
        ]
        shapes = tensors(before)
        for name, now in tensors(after).items():
            if shapes.get(name, ()) == now:
                continue
            if now is None:
                lines.append(f"host.{name} = None")
                continue
            empty = f"{self.names.bind('torch', torch, 'torch')}.empty({', '.join(map(str, now[1]))})"
            nn_ = self.names.bind("nn", nn, "torch")
            lines.append(
                f"host.{name} = {nn_}.Parameter({empty})" if now[0] == "parameter" else f"host.{name} = {empty}"
            )
        return lines

    def _child(
        self, before: nn.Module, after: nn.Module, name: str, path: str
    ) -> tuple[list[str], nn.Module | None, str]:
        """The lines that set a child, and what stands there then, to be compared further."""
        old, new = before._modules.get(name), after._modules[name]
        if new is None:
            return ([] if name in before._modules and old is None else [_set(name, "None")]), None, name
        same = old is not None and _kind(old) is _kind(new)
        if old is not None and same and (isinstance(new, GraphModule) or not self._setting_lines(old, new)):
            return [], old, name
        try:
            text, like = self._expression(new, join(path, name))
        except Unfit:
            if not same:
                raise
            return [], old, name
        return [_set(name, text), *self._zero_lines(text, name, join(path, name))], like, name

    def _zero_lines(self, text: str, name: str, path: str) -> list[str]:
        """A layer that starts as the identity starts with weights of zero, which its class alone would not have."""
        substitute = self._substitutes.get(path)
        if not isinstance(substitute, AttentionLayer) or "base." in text:
            return []
        if text not in self._zeros:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                new, plain = make(substitute, None), eval(text, dict(self.names.bound))
            fresh = dict(plain.named_parameters())
            self._zeros[text] = [key for key, each in new.named_parameters() if not each.any() and fresh[key].any()]
        host = f"host.{name}" if name.isidentifier() else f'host.get_submodule("{name}")'
        return [f"{self.names.bind('nn', nn, 'torch')}.init.zeros_({host}.{key})" for key in self._zeros[text]]

    def _expression(self, new: nn.Module, path: str | None) -> tuple[str, nn.Module]:
        """Source that gives a layer like ``new``, and what it gives: the same class at least."""
        near: tuple[str, nn.Module] | None = None
        problem: Exception | None = None
        for text in self._candidates(new, path):
            try:
                if isinstance(text, Unfit):
                    raise text
                like = self._evaluated(text)
            except Exception as error:  # a constructor may raise whatever it likes
                problem = problem or error
                continue
            if alike(new, like):
                return text, like
            if near is None and type(like) is _kind(new):
                near = text, like
        if near is None:
            said = f": {reason(problem)}" if problem is not None else ""
            raise Unfit(f"nothing is known of how its {type(new).__name__} was made{said}")
        return near

    def _candidates(self, new: nn.Module, path: str | None) -> Iterator[str | Unfit]:
        if id(new) in self._moved:
            self.needs_base = True
            yield f'base.get_submodule("{self._moved[id(new)]}")'
        if path is not None and path in self._substitutes:
            yield from self._remade(self._substitutes[path], path)
        for outer in outwards(path or "")[1:]:
            if path is not None and outer in self._made:
                made, calls = self._made[outer]
                inner = _at(made, path[len(outer) + 1 :] if outer else path)
                yield from self._called(new, calls.get(id(inner)))
        yield from self._called(new, call_from_attributes(new))
        if type(new) in _CONTAINERS:
            yield from self._container(new)
        for other, module in self.before.named_modules():
            if type(module) is _kind(new) and module._modules.keys() == new._modules.keys():
                self.needs_base = True
                yield f'{self.names.bind("deepcopy", copy.deepcopy, "copy")}(base.get_submodule("{other}"))'
                break

    def _remade(self, substitute: Substitute, path: str) -> Iterator[str | Unfit]:
        key = repr(substitute)
        if key in self._texts:
            yield self._texts[key]
            return
        old = _at(self.before, path)
        sources = [_at(self.before, source) for source in getattr(substitute, "sources", ())]
        try:
            with recorded() as calls, torch.device("meta"), torch.random.fork_rng(devices=[]):
                new = make(substitute, old, *(each for each in sources if each is not None))
        except (Unfit, StalePlanError) as error:
            yield Unfit(str(error))
            return
        self._calls = calls
        self._made[path] = new, calls
        moved = {id(module): other for other, module in self.before.named_modules()}
        self._moved |= moved
        for text in self._called(new, calls.get(id(new))):
            if isinstance(text, str):
                self._texts[key] = text
            yield text
        self._calls = {}
        for each in moved:
            del self._moved[each]

    _calls: Mapping[int, Call] = field(default_factory=dict)

    def _called(self, new: nn.Module, call: Call | None) -> Iterator[str | Unfit]:
        if call is None:
            return
        try:
            yield call_text(_kind(new), call, self.value, self.names)
        except Unfit as unfit:
            yield unfit

    def _container(self, new: nn.Module) -> Iterator[str | Unfit]:
        try:
            parts = {name: self._expression(child, None)[0] for name, child in new.named_children()}
        except Unfit as unfit:
            yield unfit
            return
        named = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        counted = list(parts) == [str(index) for index in range(len(parts))]
        inside = (
            ", ".join(parts.values())
            if counted
            else f"{self.names.bind('OrderedDict', _ordered(), 'collections')}({{{named}}})"
        )
        yield f"{self.names.reference(type(new))}({inside if isinstance(new, nn.Sequential) else f'[{inside}]'})"

    def value(self, value: Any) -> str:
        if not isinstance(value, nn.Module):
            return value_text(value, self.names, self.value)
        known = self._calls.get(id(value))
        for text in self._called(value, known):
            if isinstance(text, str):
                return text
        return self._expression(value, None)[0]

    def _evaluated(self, text: str) -> nn.Module:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return eval(text, {**self.names.bound, "base": self.before})

    def _graph_lines(self, after: nn.Module) -> list[str]:
        mark = mark_of(after)
        if not isinstance(after, GraphModule) or mark is None:
            return []
        self.graphs = True
        lines = []
        for node in graphs_of(after)[0].nodes:
            if node.op == "call_module" and node.target in mark.layers:
                users = "".join(f'"{user.name}", ' for user in node.users)
                lines.append(f'call_in_graphs(host, "{node.target}", "{node.args[0].name}", ({users.rstrip()}))')
        return [*lines, "host.recompile()"]


class _PlacedError(Unfit):
    """Says at which host a model cannot be ejected."""

    def __init__(self, path: str, unfit: Unfit) -> None:
        super().__init__(str(unfit))
        self.path = path


def _ordered() -> type:
    from collections import OrderedDict

    return OrderedDict


def _kind(module: nn.Module) -> type[nn.Module]:
    return GraphModule if isinstance(module, GraphModule) else original_class(type(module))


def _set(name: str, text: str) -> str:
    return f"host.{name} = {text}" if name.isidentifier() else f'host.add_module("{name}", {text})'


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _class_name(module: nn.Module) -> str:
    """``BottleneckWithSe``: the author's class and the layers that it calls now."""
    mark = mark_of(module)
    layers = [name for name in (mark.layers if mark else ()) if name.isidentifier()]
    words = "And".join("".join(part.capitalize() for part in name.split("_")) for name in layers[:2])
    base = original_class(type(module)).__name__
    return f"{base}With{words}" if words else f"Edited{base}"


def _substitutes(plans: tuple[Plan, ...]) -> Iterator[tuple[str, Substitute]]:
    """What the plans put where."""
    for edit in (edit for plan in plans for edit in plan.edits):
        if isinstance(edit.change, SwapChild):
            yield from ((swap.path, swap.new) for swap in edit.change.swaps)
        elif edit.change.layer is not None:
            yield edit.path, edit.change.layer


def _originals(before: nn.Module, after: nn.Module, path: str) -> Iterator[tuple[int, str]]:
    """The paths that modules of the model as it was had, by their ids."""
    mark = mark_of(after)
    for name, old in before._modules.items():
        kind, now = mark.attributes.get(name, ("", None)) if mark else ("", None)
        was = now if kind == "module" else after._modules.get(name) if not kind else None
        if old is not None and isinstance(was, nn.Module) and _kind(was) is _kind(old):
            yield id(was), join(path, name)
            yield from _originals(old, was, join(path, name))


def grouped(lines: Mapping[str, list[str]]) -> list[tuple[list[str], list[str]]]:
    """Hosts with equal lines together: their paths, and the lines. No host comes before one that holds it."""
    groups: list[tuple[list[str], list[str]]] = []
    for path, each in lines.items():
        inner = any(other != path and within(path, other) for other in lines)
        fitting = groups[-1:] if inner else groups
        group = next((group for group in fitting if group[1] == each), None)
        if group is None:
            groups.append(([path], each))
        else:
            group[0].append(path)
    return groups
