"""One module's forward as a torch.fx graph, its children left whole, every node with the value it had.

The trace follows a recorded call (a :class:`~sesurgery.probe.Frame`) step by step: a child's result is taken from the
record, everything else is computed on ``meta``. So shapes and channel axes are known at every node, and a trace that
strays from what the module really did is found out instead of believed.
"""

from __future__ import annotations

import inspect
import math
import operator
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.fx.proxy import TraceError

from .cost import CountingMode
from .guards import expect
from .probe import Frame
from .proxies import ValueProxy, unpacked, values

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
    found = _traced(frame, overrides or {}, _Tracer(frame, live))
    if isinstance(found, Failure) or found.numbers:
        # torch.fx can keep math.ceil and its like symbolic, but makes ready for it at great length in every trace.
        found = _traced(frame, overrides or {}, _Tracer(frame, live, (math,)))
    return found


def _traced(frame: Frame, overrides: Mapping[str, Any], tracer: _Tracer) -> Trace | Failure:
    module = frame.module
    kind = type(module)
    saved = {name: module.__dict__.get(name, _ABSENT) for name in overrides}
    before = set(module.__dict__)
    with LOCK:
        try:
            object.__setattr__(module, "__class__", _watching(kind))
            module.__dict__.update(overrides)
            module.__dict__["_sesurgery_reads"] = reads = {}
            graph = tracer.trace(module)
            names = [name for name in module.__dict__ if name not in before and name != "_sesurgery_reads"]
            if names:
                return Failure(f"its forward sets self.{names[0]}, which a generated forward would not")
            return Trace(graph, dict(reads), tracer.bound, tracer.numbers)
        except Exception as error:
            return Failure(_reason(error, kind))
        finally:
            object.__setattr__(module, "__class__", kind)
            for name in set(module.__dict__) - before:
                del module.__dict__[name]
            for name, value in saved.items():
                if value is _ABSENT:
                    module.__dict__.pop(name, None)
                else:
                    module.__dict__[name] = value


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


_ABSENT = object()


class _Tracer(torch.fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, frame: Frame, live: frozenset[str], autowrap: tuple[types.ModuleType, ...] = ()) -> None:
        super().__init__(autowrap_modules=autowrap)
        self.numbers = 0
        self.frame = frame
        self.live = live
        self.bound: dict[str, Any] = {}
        self.evaluating = False
        self.thread = threading.get_ident()  # torch.fx catches the calls of every thread; only ours are meant
        self.recorded: dict[int, deque[Any]] = {}
        for child in frame.children:
            self.recorded.setdefault(id(child.module), deque()).append(child.output)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.evaluating or threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.evaluating or threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Inputs of the graph; what the recorded caller left out keeps its default and stays in the signature."""
        signature = inspect.signature(root_fn)
        given = signature.bind(self.root, *self.frame.args, **self.frame.kwargs).arguments
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for index, (name, parameter) in enumerate(signature.parameters.items()):
            value: Any = self.root if index == 0 else self._input(name, parameter, given)
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional.extend(value)
            elif parameter.kind is parameter.VAR_KEYWORD:
                keywords.update(value)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                keywords[name] = value
            else:
                positional.append(value)

        def call(*args: Any) -> Any:
            return root_fn(*args, **keywords)

        call.__annotations__ = {}
        return call, positional

    def _input(self, name: str, parameter: inspect.Parameter, given: Mapping[str, Any]) -> Any:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if given.get(name):
                star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                proxy = self.create_proxy("placeholder", star + name, (), {})
                proxy.node.meta["val"] = given[name]
                return proxy if star == "*" else {key: proxy[key] for key in given[name]}
            self.create_proxy(
                "placeholder", ("*" if parameter.kind is parameter.VAR_POSITIONAL else "**") + name, (), {}
            )
            return () if parameter.kind is parameter.VAR_POSITIONAL else {}
        empty = parameter.default is parameter.empty
        proxy = self.create_proxy("placeholder", name, () if empty else (parameter.default,), {})
        if name in given and not isinstance(given[name], (bool, str, type(None))):
            proxy.node.meta["val"] = given[name]
            return unpacked(proxy, given[name])
        value = given.get(name, parameter.default)
        proxy.node.meta["val"] = value
        if name in self.live:
            return proxy
        self.bound[name] = value
        return value

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.fx.Proxy):
            return a.node
        return super().create_arg(a)

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if kind == "placeholder":
            return proxy
        value = proxy.node.meta["val"] = self._evaluate(proxy.node)
        if value is None and (kind == "call_module" or target is operator.getitem):
            return None  # what a child leaves out is part of the structure
        return unpacked(proxy, value) if kind == "call_module" else proxy

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        """A branch on sizes is followed, and guarded: the generated forward refuses to take it the other way."""
        return self._fixed(obj, bool)

    def fixed_number(self, obj: torch.fx.Proxy, kind: type) -> Any:
        """A size that the forward needs as a number is followed, and guarded."""
        self.numbers += 1
        return self._fixed(obj, kind)

    def _fixed(self, obj: torch.fx.Proxy, kind: type) -> Any:
        value = obj.node.meta.get("val")
        if not isinstance(value, (bool, int, float)):
            raise TraceError("its forward branches on a value known only at run time")
        place = _own_line(type(self.root))
        super().create_proxy("call_function", expect, (obj, value, f"{type(self.root).__name__}.forward, {place}"), {})
        return kind(value)

    def _evaluate(self, node: torch.fx.Node) -> Any:
        if node.op == "call_module":
            queue = self.recorded.get(id(self.root.get_submodule(str(node.target))))
            if queue:
                return queue.popleft()
        args, kwargs = values(node.args), values(node.kwargs)
        self.evaluating = True
        try:
            with torch.no_grad(), CountingMode():
                return self._perform(node, args, kwargs)
        except Exception:
            with torch.no_grad(), torch.device("meta"), CountingMode():
                return self._perform(node, args, kwargs)
        finally:
            self.evaluating = False

    def _perform(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            value: Any = self.root
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


_WATCHING: dict[type, type] = {}


def _watching(kind: type) -> type:
    """A subclass that notes which plain attributes of the instance are read."""
    if kind not in _WATCHING:
        base: Any = kind

        def read(self: Any, name: str) -> Any:
            value = base.__getattribute__(self, name)
            if isinstance(value, _PLAIN) and not name.startswith("__"):
                fields = object.__getattribute__(self, "__dict__")
                if name in fields and "_sesurgery_reads" in fields:
                    fields["_sesurgery_reads"][name] = value
            return value

        metaclass: Any = type(kind)
        _WATCHING[kind] = metaclass(kind.__name__, (kind,), {"__getattribute__": read, "__slots__": ()})
    return _WATCHING[kind]


def _reason(error: Exception, kind: type) -> str:
    """What went wrong and on which line of the module's own forward."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    line = _line_in(traceback.extract_tb(error.__traceback__), kind)
    return text[:200] + (f" ({line})" if line else "")


def _own_line(kind: type) -> str:
    """The line of the module's own code that is running now."""
    return _line_in(traceback.extract_stack(), kind) or "a line that cannot be found"


def _line_in(stack: traceback.StackSummary, kind: type) -> str:
    try:
        source = inspect.getsourcefile(kind.forward)  # type: ignore[attr-defined]
    except TypeError:
        source = None
    found = ""
    for entry in stack:
        if source and entry.filename == source:
            found = f"line {entry.lineno} of {source.rsplit('/', 1)[-1]}: `{(entry.line or '').strip()}`"
    return found
