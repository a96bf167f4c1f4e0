"""Everything there is to know about a model before an operation: its twin, the calls of one forward, the traces."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sesurgery.errors import ModelError
from sesurgery.plans import Cost
from sesurgery.recording.author_places import reason_in_line
from sesurgery.recording.channel_axes import labels
from sesurgery.recording.compat import BACKWARD_HOOKS, FORWARD_HOOKS
from sesurgery.recording.nested import map_tensors, nesting, tensors_in
from sesurgery.recording.recorder import Frame, Probe, has_own_forward, run
from sesurgery.tracing.deep_copy import own_functions
from sesurgery.tracing.meta_copy import hooks_on, to_meta, twin_of
from sesurgery.tracing.same_structure import Structures
from sesurgery.tracing.trace import LOCK, Trace
from sesurgery.words.paths import outwards
from sesurgery.words.text import listed, told


@dataclass
class Survey:
    """A twin of a model, run once.

    Attributes:
        twin: the weightless copy; belongs to the survey.
        args: the example input, on ``meta`` (or real, where the model needs values to run).
        probe: the recorded forward.
        paths: module path of every module of the twin (the first one, where it is mounted several times).
        mounts: all paths of every module.
        structures: which modules are equal.
        memo: what later steps want to remember about this survey; equal hosts share a trace, so it can be the key.
        body: where the forward looks at values: the private copy with numbers that was run in the twin's place.
        hooked: whether the forward needs the hooks that are on the model; then the copies have them.
    """

    twin: nn.Module
    args: tuple[Any, ...]
    probe: Probe
    paths: dict[nn.Module, str]
    mounts: dict[nn.Module, tuple[str, ...]]
    structures: Structures
    body: nn.Module | None = None
    hooked: bool = False
    memo: dict[Any, Any] = field(default_factory=dict)
    _traces: dict[nn.Module, Trace | None] = field(default_factory=dict)
    _known: dict[Any, Trace] = field(default_factory=dict)

    @functools.cached_property
    def at(self) -> dict[str, nn.Module]:
        """The module at each path of ``paths``."""
        return {path: module for module, path in self.paths.items()}

    @property
    def real(self) -> bool:
        """Whether the model had to be run with real numbers."""
        return self.body is not None

    @property
    def cost(self) -> Cost:
        """The cost of the whole model."""
        return self.probe.cost

    def module(self, path: str) -> nn.Module:
        """The twin's module at ``path``."""
        return self.twin.get_submodule(path)

    @functools.cached_property
    def by_path(self) -> dict[str, nn.Module]:
        """Every module by each of its paths."""
        return {path: module for module, paths in self.mounts.items() for path in paths}

    def frame(self, module: nn.Module) -> Frame | None:
        """The recorded call of ``module`` that did most, the first of them; None where the forward never called it."""
        return self.probe.frames.get(module)

    def trace(self, module: nn.Module) -> Trace | None:
        """The call :meth:`frame` of ``module`` as a graph; None where it was never called or is a layer of torch.

        Calls of equal modules with equal arguments share a trace, so that what is found in one serves all.
        """
        if module not in self._traces:
            frame = self.frame(module)
            self._traces[module] = None if frame is None or frame.graph is None else self._shared(frame)
        return self._traces[module]

    def _shared(self, frame: Frame) -> Trace:
        assert frame.graph is not None
        key = _call(frame, self.structures)
        return Trace(frame.graph) if key is None else self._known.setdefault(key, Trace(frame.graph))

    def hosts(self) -> Iterator[tuple[nn.Module, Trace]]:
        """Every module whose own forward was called and could be traced, in the order of execution."""
        return ((module, traced) for module, traced in self.chains_and_hosts() if has_own_forward(module))

    def chains_and_hosts(self) -> Iterator[tuple[nn.Module, Trace]]:
        """The hosts and the Sequentials, in the order of execution."""
        for module in self.probe.frames:
            traced = self.trace(module)
            if traced is not None:
                yield module, traced

    @functools.cached_property
    def callers(self) -> dict[nn.Module, tuple[nn.Module, Trace, torch.fx.Node]]:
        """For every module the first call in a traced forward: the caller, its trace and the node."""
        callers: dict[nn.Module, tuple[nn.Module, Trace, torch.fx.Node]] = {}
        for host, traced in self.chains_and_hosts():
            for node in traced.graph.nodes:
                if node.op == "call_module":
                    callers.setdefault(host.get_submodule(str(node.target)), (host, traced, node))
        return callers

    @functools.cached_property
    def frames(self) -> dict[nn.Module, list[Frame]]:
        """Every recorded call of every module, in order."""
        frames: dict[nn.Module, list[Frame]] = {}
        pending = [self.probe.root]
        while pending:
            frame = pending.pop()
            frames.setdefault(frame.module, []).append(frame)
            pending.extend(reversed(frame.children))
        return frames

    def different_calls(self, module: nn.Module) -> list[Frame]:
        """The recorded calls of a module that differ in the nesting, shapes or labels of their arguments.

        That of :meth:`frame` comes first.
        """
        calls: dict[Any, Frame] = {}
        first = self.frame(module)
        for frame in sorted(self.frames.get(module, ()), key=lambda frame: frame is not first):
            calls.setdefault((_signature(frame.args), _signature(frame.kwargs)), frame)
        return list(calls.values())

    @property
    def batch(self) -> int | None:
        """Samples in the example input, where it begins with a tensor of them."""
        first = self.args[0] if self.args else None
        return first.shape[0] if isinstance(first, torch.Tensor) and first.ndim > 1 else None

    @functools.cached_property
    def input_area(self) -> int | None:
        """Height times width of the example input, where it is a map."""
        for tensor in tensors_in(self.args):
            if tensor.ndim >= 3:
                return tensor.shape[-1] * tensor.shape[-2]
        return None


def survey(model: nn.Module, args: tuple[Any, ...], fresh: Callable[[], nn.Module] | None = None) -> Survey:
    """Look at ``model`` without touching it.

    Args:
        model: any module.
        args: positional arguments of one forward.
        fresh: makes the model anew with numbers, for a model on ``meta`` whose forward turns out to look at values.

    Raises:
        ModelError: the model cannot be copied, or fails in forward with these arguments.
    """
    with LOCK:
        twin = twin_of(model)
        body = None
        hooked = False
        structures = Structures(twin)
        try:
            used = to_meta(args)
            probe = run(twin, used, device=False, structure=structures.of)
        except Exception:
            twin, used, probe, hooked = _run_otherwise(model, args, fresh)
            body = probe.root.module if probe.root.module is not twin else None
            structures = Structures(twin)
        mounts: dict[nn.Module, list[str]] = {}
        for path, module in twin.named_modules(remove_duplicate=False):
            mounts.setdefault(module, []).append(path)
        if body is not None:
            probe = _transplant(probe, twin)
    paths = {module: all_paths[0] for module, all_paths in mounts.items()}
    places = {module: tuple(names) for module, names in mounts.items()}
    seen = Survey(twin, used, probe, paths, places, structures, body, hooked)
    several = [module for module, calls in probe.calls.items() if calls > 1]
    for module in several:  # options of its forward may leave something out
        probe.frames[module] = max(seen.frames[module], key=lambda frame: len(frame.graph.nodes) if frame.graph else 0)
    return seen


def _call(frame: Frame, structures: Structures) -> Any:
    """Equal for calls of equal modules with equal arguments; None where that cannot be said."""
    structure = structures.of(frame.module)
    return None if structure is None else (structure, _signature(frame.args), _signature(frame.kwargs))


def _signature(value: Any) -> Any:
    """What a trace depends on in the arguments of a call: their nesting, shapes and labels."""
    if isinstance(value, tuple) and all(isinstance(item, torch.Tensor) for item in value):
        return tuple((item.shape, item.dtype, labels(item)) for item in value)
    if not value:
        return ()
    leaves, spec = nesting(value)
    return spec, tuple(
        (tuple(leaf.shape), leaf.dtype, labels(leaf)) if isinstance(leaf, torch.Tensor) else (type(leaf), told(leaf))
        for leaf in leaves
    )


def _run_otherwise(
    model: nn.Module, args: tuple[Any, ...], fresh: Callable[[], nn.Module] | None
) -> tuple[nn.Module, tuple[Any, ...], Probe, bool]:
    """One forward of a model that fails on ``meta``: tensors made on ``meta`` too, its hooks kept, real numbers.

    Each is tried with gradients and without: a forward may not bear them, if it writes into its weights.

    Returns:
        The twin, the arguments, the record, and whether hooks were kept. The record is that of a copy with numbers
        where its root is not the twin.
    """
    hooks = hooks_on(model)
    failures: list[Exception] = []
    ways = [(kept, gradients) for kept in ((False, True) if hooks else (False,)) for gradients in (True, False)]
    for kept, gradients in ways:
        twin = twin_of(model, kept)
        try:
            used = to_meta(args)
            return twin, used, run(twin, used, gradients=gradients), kept
        except Exception as error:
            failures.append(error)
    for kept, gradients in ways:
        with torch.random.fork_rng(devices=[]):
            try:
                # Also inside of "with torch.device('meta')", where others build a model before its weights come.
                with torch.device("cpu"):
                    body = _body(model, fresh, kept)
                real = _real(args, next((tensor.device for tensor in body.parameters()), torch.device("cpu")))
                return twin_of(model, kept), real, run(body, real, gradients=gradients), kept
            except Exception as error:
                failures.append(error)
    raise _failing(model, failures, hooks) from failures[-1]


def _failing(model: nn.Module, failures: list[Exception], hooks: list[str]) -> ModelError:
    """The error for a model that runs in no way: what the last way failed with, and the first where it is another."""
    first, last = reason_in_line(failures[0]), reason_in_line(failures[-1])
    detail = last if first == last else f"{last} (and without values: {first})"
    if hooks:
        detail += f"; it was tried with and without its forward hooks: {listed(hooks, 3)}"
    remedy = "give an input that it accepts: example_input=... or input_size=..."
    inner = [name for name, _ in model.named_children()]
    if len(inner) == 1:  # something around a network, whose forward may be for people
        remedy += f"; or give the network that it holds: model.{inner[0]}"
    return ModelError(f"its forward fails: {detail}", where=type(model).__name__, remedy=remedy)


def _body(model: nn.Module, fresh: Callable[[], nn.Module] | None, hooks: bool) -> nn.Module:
    """A copy of a model with numbers, with hooks of its own around forwards or without."""
    weightless = any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    if weightless and fresh is not None:
        return fresh()
    memo: dict[int, Any] = {}
    body = copy.deepcopy(model, memo)
    for module in body.modules():
        for table in BACKWARD_HOOKS if hooks else (*FORWARD_HOOKS, *BACKWARD_HOOKS):
            getattr(module, table).clear()
    own_functions(model, body, memo)
    return _with_numbers(body) if weightless else body


def _with_numbers(body: nn.Module) -> nn.Module:
    body = body.to_empty(device="cpu")
    for tensor in [*body.parameters(), *body.buffers()]:
        with torch.no_grad():
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
            else:
                tensor.zero_()
    return body


def _real(args: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    def number(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_meta:
            return tensor.detach().clone()
        if tensor.is_floating_point():
            return torch.rand(tensor.shape, dtype=tensor.dtype, device=device)
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)

    return map_tensors(number, args)


def _transplant(probe: Probe, twin: nn.Module) -> Probe:
    """The record of a real copy, told of the twin's modules."""
    ours = dict(twin.named_modules(remove_duplicate=False))
    table = {module: ours[path] for path, module in probe.root.module.named_modules(remove_duplicate=False)}

    def moved(frame: Frame) -> Frame:
        frame.module = table.get(frame.module, frame.module)
        for child in frame.children:
            moved(child)
        return frame

    moved(probe.root)
    return Probe(
        probe.root,
        {table.get(module, module): frame for module, frame in probe.frames.items()},
        {table.get(module, module): count for module, count in probe.calls.items()},
        probe.cost,
    )


def hidden_in(survey: Survey, module: nn.Module, others: Set[nn.Module]) -> bool:
    """Whether a module lies inside one of the others (or is one); the model as a whole holds none."""
    return module in others or any(survey.at[path] in others for path in outwards(survey.paths[module])[1:-1])
