"""One module's forward as a torch.fx graph, its children left whole, every node with the value it had.

The trace follows a recorded call (a :class:`~sesurgery.recording.recorder.Frame`) step by step: a child's result is
taken from the record, everything else is computed on ``meta``. So shapes and channel axes are known at every node, and
a trace that strays from what the module really did is found out instead of believed.
"""

from __future__ import annotations

import contextlib
import math
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.fx.proxy import TraceError

from sesurgery.recording.channel_axes import is_activation
from sesurgery.recording.module_state import TABLES, Attributes, Change, kept
from sesurgery.recording.recorder import Frame
from sesurgery.tracing.proxies import symbolic_factories
from sesurgery.tracing.tracer import FrameTracer, Session, first_line, line_in
from sesurgery.words.text import message

# torch.fx patches nn.Module for the time of a trace, for every thread.
LOCK = threading.RLock()

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Trace:
    """A forward as a graph.

    Attributes:
        graph: ``node.meta["val"]`` holds what the node gave (tensors on ``meta``, labelled with their channel axis).
        reads: plain attributes of the module that its forward looked at, with their values; they are constants of the
            graph.
        bound: arguments the recorded caller left at their defaults, likewise constants of the graph.
        numbers: how many sizes the forward needed as numbers; each is checked at run time.
    """

    graph: torch.fx.Graph
    reads: Mapping[str, Any] = field(default_factory=dict)
    bound: Mapping[str, Any] = field(default_factory=dict)
    numbers: int = 0


@dataclass(frozen=True)
class Failure:
    """A forward that could not be traced, and why."""

    reason: str


def trace(
    frame: Frame, overrides: Mapping[str, Any] | None = None, live: frozenset[str] = frozenset()
) -> Trace | Failure:
    """Trace the forward of ``frame.module`` one level deep.

    Args:
        frame: the recorded call to follow.
        overrides: plain attributes (or the children's names) to see as other values during the trace.
        live: arguments left at their defaults that are to stay inputs of the graph all the same.
    """
    return trace_all([Case(frame, overrides or {}, live)])[0]


@dataclass(frozen=True)
class Case:
    """A call to trace, and how its module is to be seen meanwhile.

    Attributes:
        overrides, live: as for :func:`trace`.
        around: prepares the module for the time of the trace.
    """

    frame: Frame
    overrides: Mapping[str, Any] = field(default_factory=dict)
    live: frozenset[str] = frozenset()
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def trace_all(cases: Sequence[Case]) -> list[Trace | Failure]:
    """Many traces, for which torch.fx makes ready once."""
    found: list[Trace | Failure] = []
    session = Session()

    def work() -> None:
        for case in cases:
            with case.around():
                found.append(_traced(case, FrameTracer(case.frame, case.live), session.follow))

    with LOCK, symbolic_factories():
        session.over(work)
        return [_numbers_kept(case, first) for case, first in zip(cases, found, strict=True)]


def _numbers_kept(case: Case, first: Trace | Failure) -> Trace | Failure:
    """A forward that needs sizes as numbers is traced again: torch.fx can keep math.ceil and its like symbolic, but
    makes ready for it at great length."""
    if isinstance(first, Trace) and not first.numbers:
        return first
    with case.around():
        tracer = FrameTracer(case.frame, case.live, (math,))
        return _traced(case, tracer, lambda tracer: tracer.trace(tracer.frame.module))


def _traced(case: Case, tracer: FrameTracer, follow: Callable[[FrameTracer], torch.fx.Graph]) -> Trace | Failure:
    module = case.frame.module
    kind = type(module)
    with kept((module,)):
        module.__dict__.update(case.overrides)
        before = Attributes(module.modules())
        module.__dict__["_sesurgery_reads"] = reads = {}
        try:
            object.__setattr__(module, "__class__", _watching(kind))
            graph = follow(tracer)
        except Exception as error:
            return Failure(_reason(error, kind))
        finally:
            object.__setattr__(module, "__class__", kind)
            module.__dict__.pop("_sesurgery_reads")
            changes = sorted(before.changes(), key=lambda change: change.name)
            lost = next((change for change in changes if not _is_cache(change)), None)
            if changes:
                before.restore()
    if lost is not None:
        return Failure(_side_effect(module, lost))
    return Trace(graph, reads, tracer.bound, tracer.numbers)


def _is_cache(change: Change) -> bool:
    """Whether all that was done is to keep something made of weights in a dict: the graph makes it anew each time."""
    now, before = change.now, change.before
    if not isinstance(now, dict) or any(now.get(key) is not value for key, value in before.items()):
        return False
    return change.name not in TABLES and all(_of_weights(now[key]) for key in now if key not in before)


def _of_weights(value: Any) -> bool:
    tensor = value.node.meta.get("val") if isinstance(value, torch.fx.Proxy) else value
    return isinstance(tensor, torch.Tensor) and not is_activation(tensor)


def _side_effect(module: nn.Module, change: Change) -> str:
    if change.name.startswith("_tensor_constant"):
        text = "its forward computes with a tensor that it makes from numbers, which would be frozen"
    else:
        path = next(path for path, part in module.named_modules() if part is change.module)
        name = f"{path}.{change.name}" if path else change.name
        text = f"its forward changes self.{name}, which a generated forward would not"
    return _with_line(text, first_line(type(module)))


def chain(frame: Frame) -> Trace | None:
    """The graph of a Sequential, made from its recorded call; None where the module is no Sequential."""
    if type(frame.module).forward is not nn.Sequential.forward:
        return None
    graph = torch.fx.Graph()
    node = graph.placeholder("input")
    node.meta["val"] = frame.args[0] if frame.args else next(iter(frame.kwargs.values()))
    for (name, _), child in zip(frame.module._modules.items(), frame.children, strict=True):
        node = graph.call_module(name, (node,))
        node.meta["val"] = child.output
    graph.output(node)
    return Trace(graph)


_WATCHING: dict[type, type] = {}


def _watching(kind: type) -> type:
    """A subclass that notes which plain attributes of the instance are read, and lets none be set."""
    if kind not in _WATCHING:
        base: Any = kind

        def read(self: Any, name: str) -> Any:
            value = base.__getattribute__(self, name)
            if isinstance(value, _PLAIN) and not name.startswith("__"):
                fields = object.__getattribute__(self, "__dict__")
                if name in fields and "_sesurgery_reads" in fields:
                    fields["_sesurgery_reads"][name] = value
            return value

        def write(self: Any, name: str, value: Any) -> None:
            if name.startswith("_tensor_constant"):  # torch.fx keeps there what it cannot write into a graph
                return base.__setattr__(self, name, value)
            old = object.__getattribute__(self, "__dict__").get(name)
            if not isinstance(value, _PLAIN) or type(old) is not type(value) or old != value:
                raise TraceError(f"its forward sets self.{name}, which a generated forward would not")

        metaclass: Any = type(kind)
        members = {"__getattribute__": read, "__setattr__": write, "__slots__": ()}
        _WATCHING[kind] = metaclass(kind.__name__, (kind,), members)
    return _WATCHING[kind]


def _reason(error: Exception, kind: type) -> str:
    """What went wrong and on which line of the module's own forward."""
    text = message(error)
    stack = traceback.extract_tb(error.__traceback__)
    if any(Path(entry.filename).parts[-3:] == ("torch", "utils", "checkpoint.py") for entry in stack):
        text = "it calls torch.utils.checkpoint; checkpoint the whole block instead, from outside"
    return _with_line(text, line_in(stack, kind) or first_line(kind))


def _with_line(text: str, line: str) -> str:
    return f"{text} ({line})" if line else text
