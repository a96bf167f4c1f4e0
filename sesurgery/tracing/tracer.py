"""The torch.fx tracer that follows one recorded call, a level deep."""

from __future__ import annotations

import functools
import inspect
import linecache
import operator
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.fx.proxy import TraceError

from sesurgery.recording.costs import CountingMode
from sesurgery.recording.module_state import kept
from sesurgery.recording.recorder import Frame, light
from sesurgery.tracing.guards import expect
from sesurgery.tracing.proxies import ValueProxy, unpacked, values


class Session(torch.fx.Tracer):
    """One patching of ``nn.Module`` by torch.fx for any number of traces: it takes as long as a trace itself."""

    def __init__(self) -> None:
        super().__init__(autowrap_modules=())  # pyright: ignore[reportArgumentType]
        self.current: FrameTracer | None = None

    def over(self, work: Callable[[], None]) -> None:
        """Do ``work``, which may :meth:`follow` calls."""
        self.trace(work)

    def follow(self, tracer: FrameTracer) -> torch.fx.Graph:
        """The graph of the tracer's call; only inside :meth:`over`."""
        self.current = tracer
        try:
            return tracer.follow()
        finally:
            self.current = None

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, []

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.current is None else self.current.call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.current is None else self.current.getattr(attr, attr_val, parameter_proxy_cache)


class FrameTracer(torch.fx.Tracer):
    """Builds the graph of ``frame.module``; a child's result is taken from the record, the rest computed on ``meta``.

    Attributes:
        bound: arguments the recorded caller left at their defaults, or gave as structure.
        numbers: how many sizes the forward needed as numbers.
    """

    proxy_buffer_attributes = True

    def __init__(self, frame: Frame, live: frozenset[str], autowrap: tuple[types.ModuleType, ...] = ()) -> None:
        super().__init__(autowrap_modules=autowrap)  # pyright: ignore[reportArgumentType]
        self.numbers = 0
        self.frame = frame
        self.live = live
        self.bound: dict[str, Any] = {}
        self.evaluating = False
        self.thread = threading.get_ident()  # torch.fx catches the calls of every thread; only ours are meant
        self.parameter_proxies: dict[str, Any] = {}
        self.paths = {module: path for path, module in frame.module.named_modules()}
        self.recorded: dict[str, deque[Any]] = {}
        for child in frame.children:
            if child.module in self.paths:
                self.recorded.setdefault(self.paths[child.module], deque()).append(child.output)

    def follow(self) -> torch.fx.Graph:
        """Run the forward, inside a :class:`Session`."""
        root = self.root = self.frame.module
        self.submodule_paths = self.paths
        self.tensor_attrs = {
            value: f"{path}.{name}" if path else name
            for module, path in self.paths.items()
            for name, value in module.__dict__.items()
            if isinstance(value, torch.Tensor)
        }
        self.graph = torch.fx.Graph()
        call, arguments = self.create_args_for_root(type(root).forward, True)
        self.create_node("output", "output", (self.create_arg(call(*arguments)),), {})
        self.submodule_paths = None
        return self.graph

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.evaluating or threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.evaluating or isinstance(attr_val, nn.Module) or threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, self.parameter_proxies)

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
        try:
            made = super().create_arg(a)
        except NotImplementedError as error:  # its text names the type
            raise TraceError(f"its forward hands on what no graph can hold: {error}") from error
        if isinstance(made, torch.fx.Node) and isinstance(a, torch.Tensor):
            made.meta.setdefault("val", a)
        return made

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if kind == "placeholder":
            return proxy
        value = proxy.node.meta["val"] = self._evaluate(proxy.node)
        if isinstance(value, str | None) and (kind == "call_module" or target is operator.getitem):
            return value  # what a child leaves out, and the names it gives things, are part of the structure
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
        if obj.node.target is getattr and obj.node.args[1] == "requires_grad":
            raise TraceError("its forward branches on requires_grad, which is another while training")
        if not isinstance(value, (bool, int, float)):
            raise TraceError("its forward branches on a value known only at run time")
        place = _own_line(type(self.root))
        super().create_proxy("call_function", expect, (obj, value, f"{type(self.root).__name__}.forward, {place}"), {})
        return kind(value)

    def _evaluate(self, node: torch.fx.Node) -> Any:
        if node.op == "call_module":
            queue = self.recorded.get(str(node.target))
            if queue:
                return queue.popleft()
        args, kwargs = values(node.args), values(node.kwargs)
        self.evaluating = True
        try:
            with torch.no_grad(), CountingMode():
                return self._perform(node, args, kwargs)
        except Exception:
            try:  # what a factory made without naming a device lies elsewhere than the activations
                with torch.no_grad(), torch.device("meta"), CountingMode():
                    return self._perform(node, light(args), light(kwargs))
            except AttributeError as error:  # in a property (as a proxy's node is) it would start a search for another
                raise TraceError(str(error)) from error
        finally:
            self.evaluating = False

    def _perform(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            value: Any = self.root
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        if node.op == "call_module":
            child = self.root.get_submodule(str(node.target))
            with kept(child.modules()):
                return child(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _own_line(kind: type) -> str:
    """The line of the module's own code that is running now."""
    source = _source_of(kind)
    frame = inspect.currentframe()
    while frame is not None:
        if source is not None and frame.f_code.co_filename == source:
            return _quoted(source, frame.f_lineno)
        frame = frame.f_back
    return "a line that cannot be found"


def line_in(stack: Iterable[traceback.FrameSummary], kind: type) -> str:
    """The last line on a stack that is code of ``kind``; empty where there is none."""
    source = _source_of(kind)
    lines = [entry.lineno for entry in stack if entry.filename == source]
    return _quoted(source, lines[-1]) if source and lines else ""


def first_line(kind: type) -> str:
    """Where the forward of ``kind`` begins, for what cannot be said of one of its lines; empty where it is not code."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)  # type: ignore[attr-defined]
    return _quoted(code.co_filename, code.co_firstlineno) if code is not None else ""


@functools.lru_cache(maxsize=1024)
def _source_of(kind: type) -> str | None:
    try:
        return inspect.getsourcefile(kind.forward)  # type: ignore[attr-defined]
    except TypeError:
        return None


def _quoted(source: str, number: int | None) -> str:
    line = linecache.getline(source, number or 0).strip()
    return f"line {number} of {source.rsplit('/', 1)[-1]}: `{line}`"
