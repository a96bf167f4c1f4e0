"""One forward pass of a twin: the tree of module calls with the values that went in and out, and what it cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sesurgery.plans import Cost
from sesurgery.recording.channel_axes import assume, copy_labels, mark_activation
from sesurgery.recording.costs import CountingMode, parameters
from sesurgery.recording.meta_copy import to_meta
from sesurgery.recording.module_state import kept
from sesurgery.recording.nested import map_tensors, tensors_in


@dataclass
class Frame:
    """One call of a module: ``module(*args, **kwargs) -> output`` and the calls its forward made, in order."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    children: list[Frame] = field(default_factory=list)


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


def run(model: nn.Module, args: tuple[Any, ...], labels: bool = True, device: bool = True) -> Probe:
    """Run ``model(*args)`` once in eval mode, without gradients, and record every call.

    ``labels=False`` leaves the channel axes out, for a pass that is only about costs. ``device=False`` leaves tensors
    that a forward makes without naming a device where torch makes them, which is quicker and seldom matters.

    The model is a private one (a twin): hooks are added to it and taken away again, and what its forward keeps in
    attributes (a cache, a counter) is put back. Activations are kept on ``meta``.
    """
    recorder = _Recorder()
    mode = CountingMode(labels)
    model.eval()
    for leaf in tensors_in(args):
        mark_activation(leaf)
        assume(leaf, 1 if leaf.ndim >= 3 and leaf.is_floating_point() else None)
    modules = list(model.modules())
    with kept(modules), recorder.attached(modules), torch.no_grad(), _on_device(args if device else ()), mode:
        model(*args)
    frames: dict[nn.Module, Frame] = {}
    calls: dict[nn.Module, int] = {}
    memory = 0
    for frame in _walk(recorder.root):
        frames.setdefault(frame.module, frame)
        calls[frame.module] = calls.get(frame.module, 0) + 1
        if not frame.children:
            memory += sum(leaf.numel() * leaf.element_size() for leaf in tensors_in(frame.output))
    return Probe(recorder.root, frames, calls, mode.cost(parameters(model), memory))


def run_host(module: nn.Module, frame: Frame) -> Any:
    """What ``module`` gives for the arguments of a recorded call, without gradients."""
    try:
        with torch.no_grad(), CountingMode(labels=False):
            return module(*frame.args, **frame.kwargs)
    except Exception:
        with torch.no_grad(), torch.device("meta"):
            return module(*frame.args, **frame.kwargs)


class _Recorder:
    """Builds the call tree from forward hooks."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.root: Frame = None  # type: ignore[assignment]

    @contextlib.contextmanager
    def attached(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        handles = []
        for module in modules:
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        frame = Frame(module, light(args), light(kwargs))
        if self.stack:
            self.stack[-1].children.append(frame)
        else:
            self.root = frame
        self.stack.append(frame)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop().output = light(output)


def light(value: Any) -> Any:
    """The value with its tensors on ``meta``, labels kept, in new containers: a forward may go on filling its own."""
    if isinstance(value, torch.Tensor):
        return _light_tensor(value)
    if not value or (
        isinstance(value, tuple) and all(isinstance(item, torch.Tensor) and item.is_meta for item in value)
    ):
        return value
    return map_tensors(_light_tensor, value)


def _light_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        return tensor
    light = to_meta(tensor)
    copy_labels(tensor, light)
    return light


def _walk(frame: Frame) -> Iterator[Frame]:
    yield frame
    for child in frame.children:
        yield from _walk(child)


def _on_device(args: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Tensors that a forward makes without naming a device must lie where the input does."""
    first = next(iter(tensors_in(args)), None)
    return torch.device(first.device) if first is not None else contextlib.nullcontext()
