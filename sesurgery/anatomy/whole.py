"""The dataflow of a whole model in one graph: what each host's own code does, across the calls of its children."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.dataflow import holds_activation, weight_layers
from sesurgery.anatomy.layer_kinds import function_name, is_dropping
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.compat import AdaptiveAvgPool, AvgPool, BatchNorm
from sesurgery.recording.recorder import Frame
from sesurgery.tracing.survey import Survey

_LINEAR_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    BatchNorm,
    AvgPool,
    AdaptiveAvgPool,
    nn.Upsample,
    nn.PixelShuffle,
    nn.Flatten,
    nn.Unflatten,
)
_LINEAR_FUNCTIONS = frozenset(
    "add sub neg sum mean cat stack chunk split pad getitem view reshape permute transpose movedim flatten unflatten "
    "squeeze unsqueeze expand contiguous clone to interpolate avg_pool1d avg_pool2d avg_pool3d batch_norm linear "
    "adaptive_avg_pool1d adaptive_avg_pool2d conv1d conv2d conv3d dropout".split()
)
_VIEWS = frozenset(
    "view reshape permute transpose movedim flatten unflatten getitem chunk split squeeze unsqueeze expand expand_as "
    "repeat unfold contiguous pad fft_irfft fft_irfft2 fft_irfftn".split()  # a spectrum is no smaller map
)
_LINEAR_IN_ONE = frozenset("mul div truediv multiply matmul einsum".split())


@dataclass(eq=False)
class Step:
    """One operation, or one call of a layer whose inside is not looked at.

    Attributes:
        order: its place in the order of execution.
        node: in the graph of ``frame``, the call of the host that performs it.
        sources: the steps whose activations it is computed from.
        users: the steps that read it.
        call: of the layer that it calls.
    """

    order: int
    node: Node
    frame: Frame
    sources: tuple[Step, ...]
    users: list[Step] = field(default_factory=list)
    call: Frame | None = None

    @property
    def value(self) -> Any:
        """What it gave."""
        return self.node.meta.get("val")

    @property
    def tensor(self) -> torch.Tensor | None:
        """What it gave, where that is one tensor."""
        return self.value if isinstance(self.value, torch.Tensor) else None

    @property
    def layer(self) -> nn.Module | None:
        """The layer that it calls."""
        return self.frame.module.get_submodule(str(self.node.target)) if self.node.op == "call_module" else None

    @property
    def weights(self) -> int:
        """How many layers with a matrix or a kernel it runs."""
        return weight_layers(self.node, self.frame.module.get_submodule)


class Whole:
    """A surveyed forward as steps, in the order of execution.

    Attributes:
        steps: all of them; the inputs of the model come first.
        outputs: those that the model returns.
    """

    def __init__(self, survey: Survey) -> None:
        self.steps: list[Step] = []
        self._callers: dict[int, Frame] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._at: dict[tuple[int, str], Any] = {}
        root = survey.probe.root
        inputs = [node for node in _nodes(root) if node.op == "placeholder"]
        given = [self._step(node, root, ()) if holds_activation(node) else None for node in inputs]
        self.outputs: tuple[Step, ...] = tuple(flat(self._call(root, given)))
        for step in self.steps:
            for source in step.sources:
                source.users.append(step)

    def at(self, frame: Frame, name: str) -> Any:
        """The step that gives a node's value in a recorded call; nested as the value is."""
        return self._at.get((id(frame), name))

    def around(self, step: Step) -> list[Frame]:
        """The calls in which a step lies, outermost first, that of the model left out."""
        calls: list[Frame] = []
        frame = step.frame if step.call is None else step.call
        while id(frame) in self._callers:
            calls.insert(0, frame)
            frame = self._callers[id(frame)]
        return calls

    def within(self, frame: Frame) -> list[Step]:
        """The steps of a call, the last one first."""
        start, end = self._spans.get(id(frame), (0, 0))
        return self.steps[start:end][::-1]

    def call_of(self, step: Step, modules: Container[nn.Module]) -> Frame | None:
        """The outermost call of one of some modules in which a step lies."""
        return next((frame for frame in self.around(step) if frame.module in modules), None)

    def _step(self, node: Node, frame: Frame, sources: Iterable[Step], call: Frame | None = None) -> Step:
        step = Step(len(self.steps), node, frame, tuple(dict.fromkeys(sources)), call=call)
        self.steps.append(step)
        return step

    def _call(self, frame: Frame, given: list[Any]) -> Any:
        """The steps of a call whose arguments are ``given``; what it returns, as steps."""
        values: dict[Node, Any] = {}
        waiting = iter(given)
        calls = iter(frame.children)
        for node in _nodes(frame):
            if node.op == "output":
                return _filled(node.args[0], values)
            values[node] = next(waiting, None) if node.op == "placeholder" else self._value(frame, node, values, calls)
            self._at[id(frame), node.name] = values[node]
        return None

    def _value(self, frame: Frame, node: Node, values: dict[Node, Any], calls: Iterator[Frame]) -> Any:
        called = frame.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        call = None if called is None else next((each for each in calls if each.module is called), None)
        if call is not None:
            self._callers[id(call)] = frame
        args = [_filled(arg, values) for arg in (*node.args, *node.kwargs.values())]
        if node.target in (operator.getitem, getattr) and isinstance(args[0], (list, tuple, dict)):
            return _item(args[0], node.args[1])
        start = len(self.steps)
        if call is not None and call.graph is not None:
            value = self._call(call, args)
        else:
            value = self._step(node, frame, flat(args), call) if holds_activation(node) else None
        self._spans[id(call)] = start, len(self.steps)
        return value


def _nodes(frame: Frame) -> Iterable[Node]:
    return () if frame.graph is None else frame.graph.nodes


def _filled(value: Any, values: dict[Node, Any]) -> Any:
    """An argument with the steps in place of the nodes."""
    if isinstance(value, Node):
        return values.get(value)
    if isinstance(value, (list, tuple)):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    return None


def _item(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except (KeyError, IndexError, TypeError):
        return list(flat(container))


def flat(value: Any) -> Iterator[Step]:
    """The steps in a nested value, in order."""
    if isinstance(value, Step):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat(item)


def leads(start: Step, end: Step) -> bool:
    """Whether ``end`` is computed from ``start``."""
    return start is end or any(step is start for step in before(end, lambda step: step.order >= start.order))


def before(end: Step, wanted: Callable[[Step], bool] = lambda step: True) -> Iterator[Step]:
    """The steps that ``end`` is computed from, itself left out, as far as they are wanted."""
    seen: set[Step] = set()
    pending = [*end.sources]
    while pending:
        step = pending.pop()
        if step not in seen and wanted(step):
            seen.add(step)
            yield step
            pending.extend(step.sources)


def between(start: Step, end: Step) -> list[Step]:
    """The steps on all ways from ``start`` (left out) to ``end``."""
    near = {end, *before(end, lambda step: step.order > start.order)} - {start}
    behind = {start}
    for step in sorted(near, key=lambda step: step.order):
        if any(source in behind for source in step.sources):
            behind.add(step)
    return sorted(near & behind, key=lambda step: step.order)


def is_linear(step: Step) -> bool:
    """Whether a step bends nothing: a convolution, a norm of fixed statistics, a sum, a view."""
    layer, name = step.layer, function_name(step.node)
    if layer is not None:
        return isinstance(layer, _LINEAR_LAYERS) or is_dropping(layer)
    return name in _LINEAR_FUNCTIONS or (name in _LINEAR_IN_ONE and len(step.sources) == 1)


def enlarges(step: Step) -> bool:
    """Whether a step makes one map larger: an interpolation, a transposed convolution, a pixel shuffle."""
    given, gives = step.sources[0].tensor if len(step.sources) == 1 else None, step.tensor
    if given is None or gives is None or function_name(step.node) in _VIEWS or not is_same_batch(given, gives):
        return False
    return 0 < 1.5 * places(given) < places(gives)


def is_pyramid(start: Step, steps: Sequence[Step]) -> bool:
    """Whether the ways from ``start`` make a map larger that one of them made smaller.

    A generator's block makes its map larger on each of its ways, and is a block.
    """
    sizes = [size for step in (start, *steps) if (size := places(step.tensor))]
    return any(map(enlarges, steps)) and any(1 < size < sizes[0] for size in sizes)


def is_same_batch(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two activations have as many samples."""
    return one.shape[:1] == two.shape[:1]


def places(value: torch.Tensor | None) -> int:
    """Places of a map, (N, C, H, W) in any order, (N, C, L) or more; 0 for tokens and all else."""
    axis = channel_axis(value)
    if value is None or axis is None or value.ndim < 3 or (value.ndim == 3 and axis != 1):
        return 0
    return prod(size for index, size in enumerate(value.shape) if index not in (0, axis))
