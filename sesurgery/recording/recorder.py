"""One forward pass of a twin: the tree of module calls with the values that went in and out, and what it cost."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx import Graph

from sesurgery.plans import Cost
from sesurgery.recording.author_places import place_in
from sesurgery.recording.channel_axes import assume, assume_samples, mark_activation
from sesurgery.recording.compat import Unnoted, is_wrapped, modules_in, undispatched
from sesurgery.recording.costs import CountingMode, KeptBytes
from sesurgery.recording.equal_calls import EqualCall, EqualCalls
from sesurgery.recording.module_state import kept, undisturbed
from sesurgery.recording.nested import batch_of, map_tensors, one_sample, tensors_in
from sesurgery.recording.operations import (
    HostGraph,
    OperationsMode,
    another_name,
    autocast_devices,
    flat_tensors,
    grad_is_on,
    light,
    opaque,
    version_of,
)

_T = TypeVar("_T")


@dataclass
class Frame:
    """One call of a module: ``module(*args, **kwargs) -> output`` and the calls its forward made, in order.

    Attributes:
        graph: what the module's own code did between the calls of its children, ``node.meta`` of each node holding
            ``val`` (what it gave), ``place`` (in the author's source), ``writes`` (nodes whose tensors it wrote into),
            ``grad`` and ``autocast`` (whether gradients were on, and for which devices autocast was). None for torch's
            own layers.
        writes: whether the call wrote into its arguments.
        grad: whether gradients were on where it was called.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    children: list[Frame] = field(default_factory=list)
    graph: Graph | None = None
    writes: bool = False
    grad: bool = True

    def take_after(self, other: Frame) -> None:
        """What happened in this call is what happened in ``other``, an equal call of an equal module."""
        ours = dict(zip(modules_in(other.module), modules_in(self.module), strict=True))
        self.graph = other.graph
        self.children = [_told_of(ours, child) for child in other.children]


def _told_of(modules: dict[nn.Module, nn.Module], frame: Frame) -> Frame:
    """A call and those in it, as the calls of other modules."""
    children = [_told_of(modules, child) for child in frame.children]
    module = modules[frame.module]
    return Frame(module, frame.args, frame.kwargs, frame.output, children, frame.graph, frame.writes, frame.grad)


@dataclass(frozen=True)
class Probe:
    """A finished forward pass.

    Attributes:
        root: the call of the model itself.
        frames: the first call of each module that was called.
        calls: how often each module was called.
        cost: of the whole pass.
    """

    root: Frame
    frames: dict[nn.Module, Frame]
    calls: dict[nn.Module, int]
    cost: Cost


def run(
    model: nn.Module,
    args: tuple[Any, ...],
    *,
    device: bool = True,
    gradients: bool = True,
    structure: Callable[[nn.Module], Any] | None = None,
) -> Probe:
    """Run ``model(*args)`` once in eval mode and record every call.

    Args:
        model: a private one (a twin). What its forward keeps in attributes (a cache, a counter) is put back.
        args: activations are kept on ``meta``.
        device: whether tensors that a forward makes without naming a device lie where the input does; without, they
            lie where torch makes them, which is quicker and seldom matters.
        gradients: whether autograd watches, which tells what a training step keeps.
        structure: equal for modules that are equal but for their weights (None: for none). Of their calls with equal
            arguments one runs: the others share its graph.
    """
    counting = CountingMode()
    recorder = Recorder(counting, gradients, EqualCalls(counting, modules_in(model), structure))
    model.eval()
    for leaf in tensors_in(args):
        mark_activation(leaf)
        assume(leaf, 1 if leaf.ndim >= 3 and leaf.is_floating_point() else None)
    for leaf in args:
        if isinstance(leaf, torch.Tensor):
            assume_samples(leaf)
    with _watched(model, counting, gradients):
        root = recorder.record(model, args, {}, _on_device(args if device else ()))
    frames: dict[nn.Module, Frame] = {}
    calls: dict[nn.Module, int] = {}
    for frame in walk(root):
        frames.setdefault(frame.module, frame)
        calls[frame.module] = calls.get(frame.module, 0) + 1
    if batch_of(args) == 1:
        return Probe(root, frames, calls, counting.cost(model))
    cost = count(model, args, device=device, gradients=gradients, structure=structure)
    return Probe(root, frames, calls, cost)


def count(
    model: nn.Module,
    args: tuple[Any, ...],
    *,
    device: bool = True,
    gradients: bool = True,
    structure: Callable[[nn.Module], Any] | None = None,
) -> Cost:
    """What ``model(*args)`` costs in eval mode for one of its samples. Arguments as in :func:`run`."""
    samples = batch_of(args)
    if samples > 1:
        with contextlib.suppress(Exception):  # a forward may insist on its number of samples
            return count(model, one_sample(args), device=device, gradients=gradients, structure=structure)
    counting = CountingMode(labels=False)
    modules = modules_in(model.eval())
    equal = EqualCalls(counting, modules, structure)

    def called(module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        call = equal.find(module, args, kwargs)
        run = functools.partial(counting.called, module, forward, *args, **kwargs)
        return run() if call is None else equal.called(call, module, flat_tensors((args, kwargs)), run)

    with undisturbed(modules), kept(modules), _watched(model, counting, gradients):
        _intercept(modules, called)
        with _on_device(args if device else ()), counting:
            model(*args)
    return counting.cost(model, samples)


@contextlib.contextmanager
def _watched(model: nn.Module, counting: CountingMode, gradients: bool) -> Iterator[None]:
    """With gradients: every weight asks for them meanwhile, and what autograd keeps is counted."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad and weight.is_floating_point()]
    if not gradients:
        with torch.no_grad():
            yield
        return
    for weight in frozen:
        weight.requires_grad_(True)
    counting.kept = KeptBytes(model, counting)
    try:
        with torch.inference_mode(False), torch.enable_grad(), counting.kept:
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


class _Answer:
    """Stands in the place of a module's forward, to which it is like in all but what a call of it does."""

    __slots__ = ("__wrapped__", "called", "module")

    def __init__(self, called: Callable[..., Any], module: nn.Module, forward: Callable[..., Any]) -> None:
        self.called, self.module, self.__wrapped__ = called, module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.called(self.module, self.__wrapped__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


def _intercept(modules: Iterable[nn.Module], called: Callable[..., Any]) -> None:
    """Each module answers calls by ``called(module, forward, *args, **kwargs)``, until its attributes are put back."""
    for module in modules:
        module.__dict__["forward"] = _Answer(called, module, module.forward)


def record_call(module: nn.Module, frame: Frame, gradients: bool = False) -> Frame:
    """The call of ``frame`` once more, recorded on the module as it is now, in the mode that it is in.

    The children that ``frame`` calls answer as they did then, so that only the module's own code runs.
    """

    def recorded(device: contextlib.AbstractContextManager[Any], gradients: bool) -> Frame:
        recorder = Recorder(CountingMode(), gradients)
        recorder.answers = answers_of(frame)
        args, kwargs = map_tensors(lambda tensor: tensor, (frame.args, frame.kwargs))  # in containers of their own
        return recorder.record(module, args, kwargs, device)

    for device in (contextlib.nullcontext(), torch.device("meta")):
        try:
            if gradients:
                return recorded(device, True)
            return _with_gradients_if_needed(functools.partial(recorded, device))
        except RuntimeError as error:
            failure = error  # tensors that the forward makes may have to lie where the input does
    raise failure


def record_within(model: nn.Module, args: tuple[Any, ...], module: nn.Module, gradients: bool = False) -> Frame:
    """The first call of ``module`` while ``model(*args)`` runs whole: for a forward that looks at values.

    Raises:
        KeyError: it is not called.
    """

    def recorded(gradients: bool) -> Frame:
        return Recorder(CountingMode(), gradients).record(model, args, {}, _on_device(args))

    root = recorded(True) if gradients else _with_gradients_if_needed(recorded)
    for frame in walk(root):
        if frame.module is module:
            return frame
    raise KeyError(type(module).__name__)


def _with_gradients_if_needed(recorded: Callable[[bool], _T]) -> _T:
    """What is recorded without gradients, or with them where the forward asks for some itself."""
    try:
        return recorded(False)
    except RuntimeError as error:
        if "grad" not in str(error):
            raise
        return recorded(True)


class Recorder:
    """Builds the tree of calls. For the time of a forward each module answers its calls through :meth:`_called`."""

    def __init__(
        self,
        counting: CountingMode,
        gradients: bool,
        equal: EqualCalls | None = None,
    ) -> None:
        self.counting = counting
        self.gradients = gradients
        self.frames: list[Frame] = []
        self.graphs: list[HostGraph | None] = []
        self.root: Frame | None = None
        self.mode = OperationsMode(counting.origins, gradients)
        self.thread = threading.get_ident()
        self.answers: dict[nn.Module, deque[Frame]] = {}
        self.equal = equal or EqualCalls(counting)

    def record(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        around: contextlib.AbstractContextManager[Any],
    ) -> Frame:
        """Run ``model(*args, **kwargs)`` and record it. What modules hold is put back."""
        modules = modules_in(model)
        with undisturbed(modules), kept(modules):
            _intercept(modules, self._called)
            with torch.set_grad_enabled(self.gradients), around, self.counting, self.mode:
                model(*args, **kwargs)
        assert self.root is not None
        return self.root

    def _called(self, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        with Unnoted():
            frame = Frame(module, light(args), light(kwargs), grad=not self.gradients or grad_is_on())
            caller = self.graphs[-1] if self.graphs else None
            inputs = flat_tensors((args, kwargs))
            versions = [version_of(tensor) for tensor in inputs]
            given = _as_given(args, kwargs)
            run, equal = self._run(frame, forward, args, kwargs, inputs)
            runs = run is forward or (equal is not None and not equal.ran)
            self._push(frame, forward if runs else None, args, kwargs)
            tally = self.counting.enter(module)
        try:
            output = run(*args, **kwargs)
        except BaseException:
            self._pop()
            raise  # the caller may catch it and go another way: then the call is no part of what it does
        finally:
            self.counting.tally = tally
        with Unnoted():
            changed = [tensor for tensor, old in zip(inputs, versions, strict=True) if version_of(tensor) != old]
        frame.writes = bool(changed)
        if not changed:
            output = _renamed(output, inputs)
        self._close(frame, output, None if runs else equal)
        with Unnoted():
            if runs and equal is not None and equal.ran:
                equal.frame = frame
            if caller is not None:
                self._note(caller, frame, given, output, changed)
        if self.frames:
            self.frames[-1].children.append(frame)
        else:
            self.root = frame
        return output

    def _run(
        self, frame: Frame, forward: Callable[..., Any], args: Any, kwargs: Any, inputs: list[torch.Tensor]
    ) -> tuple[Callable[..., Any], EqualCall | None]:
        """What gives the output of a call: its forward, unless the call or an equal one is known already."""
        samples = any(map(is_wrapped, inputs))
        known = self._answer(frame, samples)
        if known is not None:
            return lambda *_, **__: _again(known.output), None
        call = None if samples else self.equal.find(frame.module, args, kwargs)
        if call is None:
            return forward, None
        run = functools.partial(self.equal.called, call, frame.module, inputs)
        return (lambda *args, **kwargs: run(functools.partial(forward, *args, **kwargs))), call

    def _close(self, frame: Frame, output: Any, equal: EqualCall | None) -> None:
        """The call gave ``output``; an equal one before it tells what happened inside."""
        graph = self._pop()
        with Unnoted():
            if graph is not None:
                graph.close(output, self.counting.origins)
            frame.output = light(output)
            if equal is not None:
                frame.take_after(equal.frame)

    def _push(self, frame: Frame, forward: Callable[..., Any] | None, args: Any, kwargs: Any) -> None:
        graph = None
        if forward is not None and _is_host(forward):
            graph = HostGraph(frame.module, _arguments(forward, args, kwargs), _BOUNDARY)
            frame.graph = graph.graph
        self.frames.append(frame)
        self.graphs.append(graph)
        self.mode.current = graph

    def _answer(self, frame: Frame, samples: bool) -> Frame | None:
        """The recorded call that stands for a call of a child; None where it has to run, as on samples of vmap."""
        answers = self.answers.get(frame.module) if len(self.frames) == 1 else None
        if not answers:
            return None
        known = answers.popleft()
        alike = not known.writes and _sizes((frame.args, frame.kwargs)) == _sizes((known.args, known.kwargs))
        return known if alike and not samples else None

    def _pop(self) -> HostGraph | None:
        self.frames.pop()
        graph = self.graphs.pop()
        self.mode.current = self.graphs[-1] if self.graphs else None
        return graph

    def _note(self, caller: HostGraph, frame: Frame, given: Any, output: Any, changed: list[torch.Tensor]) -> None:
        """The call as a node of its caller's graph."""
        origins = self.counting.origins
        args = tuple(caller.argument(value, origins) for value in given[0])
        kwargs = {key: caller.argument(value, origins) for key, value in given[1].items()}
        path = caller.path_of(frame.module)
        if path is None:
            node = caller.graph.call_function(opaque, (*args, *kwargs.values()))
        else:
            node = caller.graph.call_module(path, args, kwargs)
        place = place_in(sys._getframe(2), _BOUNDARY, caller.own)
        node.meta.update(val=frame.output, place=place, grad=frame.grad, autocast=autocast_devices())
        if changed:
            node.meta["writes"] = tuple(caller.node_of(tensor, origins) for tensor in changed)
        returned = {id(tensor) for tensor in flat_tensors(output)}
        for tensor in changed:
            before = caller.node_of(tensor, origins)
            caller.wrote([tensor], node)
            if id(tensor) not in returned:
                caller.bind(tensor, before)
                caller.writers[id(tensor)] = node
        caller.bind(output, node)


_BOUNDARY = Recorder._called.__code__


def answers_of(frame: Frame) -> dict[nn.Module, deque[Frame]]:
    """The calls that ``frame`` made, by module, in order."""
    answers: dict[nn.Module, deque[Frame]] = {}
    for child in frame.children:
        answers.setdefault(child.module, deque()).append(child)
    return answers


def _sizes(value: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in flat_tensors(value)]


def is_chain(module: nn.Module) -> bool:
    """Whether a module's forward is that of a Sequential; asked without a call of what its author put there."""
    raw = next((vars(base)["forward"] for base in type(module).__mro__ if "forward" in vars(base)), None)
    return raw is vars(nn.Sequential)["forward"]


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module's forward is code of the model's author: neither torch's own nor that of a Sequential."""
    return _is_authors(_function(module.forward)) and not is_chain(module)


def _is_host(forward: Callable[..., Any]) -> bool:
    """Whether the operations of a forward are noted: its author's, or a Sequential's."""
    function = _function(forward)
    return function is nn.Sequential.forward or _is_authors(function)


def _is_authors(function: Any) -> bool:
    return not (getattr(function, "__module__", "") or "").startswith(("torch.nn.", "torch.ao."))


def _function(forward: Any) -> Any:
    return getattr(forward, "__func__", forward)


def _arguments(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments of a call with the names of the parameters that take them."""
    names, rest = _parameters(_function(forward), hasattr(forward, "__self__"))
    for index, value in enumerate(args):
        yield (names[index] if index < len(names) else f"{rest}_{index - len(names)}"), value
    yield from kwargs.items()


@functools.lru_cache(maxsize=4096)
def _parameters(function: Any, bound: bool) -> tuple[tuple[str, ...], str]:
    """Names of the positional parameters, and of the one that takes what is left."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[int(bound) :]
    except (TypeError, ValueError):
        return (), "args"
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(parameter.name for parameter in parameters if parameter.kind in plain)
    return names, next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "args")


def _again(output: Any) -> Any:
    """What a call gave before, as objects of their own; no operation of the model's."""
    with Unnoted(), undispatched():
        return map_tensors(another_name, output)


def _as_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments in lists and dicts of their own: a forward may put other tensors into those that it is given."""
    if any(isinstance(value, (list, dict)) for value in (*args, *kwargs.values())):
        return map_tensors(lambda tensor: tensor, (args, kwargs))
    return args, kwargs


def _renamed(output: Any, inputs: list[torch.Tensor]) -> Any:
    """An output in which each tensor that was an input is another object, so that the two can be told apart."""
    known = {id(tensor) for tensor in inputs}
    if isinstance(output, torch.Tensor):
        return another_name(output) if id(output) in known else output
    if not known or not any(id(tensor) in known for tensor in flat_tensors(output)):
        return output
    return map_tensors(lambda tensor: another_name(tensor) if id(tensor) in known else tensor, output)


def walk(frame: Frame) -> Iterator[Frame]:
    """A call and all calls inside it, in the order in which they began."""
    yield frame
    for child in frame.children:
        yield from walk(child)


def _on_device(args: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Tensors that a forward makes without naming a device must lie where the input does."""
    first = next(iter(tensors_in(args)), None)
    return torch.device(first.device) if first is not None else contextlib.nullcontext()
