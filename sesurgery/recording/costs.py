"""Parameters, MACs, FLOPs and activation memory of one forward pass.

MACs come from torch's own registry of FLOP formulas, so they equal ``torch.utils.flop_counter.FlopCounterMode / 2``.
FLOPs are ``2 * MACs`` plus one per element of pooling (elements read), activation, gate and scaling (elements written).
Counting happens on aten operations, so the same squeeze-and-excitation costs the same however it is written.
What counts as no FLOPs (norms, additions, copies) is named with its number of elements, not passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from sesurgery.plans import Cost
from sesurgery.recording.channel_axes import propagate
from sesurgery.recording.compat import TorchDispatchMode, packet
from sesurgery.recording.fast_shapes import quick_result
from sesurgery.recording.nested import tensors_in

_MAC_KINDS = {"convolution": "conv", "_convolution": "conv", "addmm": "linear", "mm": "linear"}
_POOL = frozenset(
    "mean sum amax amin max_pool1d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d".split()
)
_ACTIVATION = frozenset(
    "relu relu6 gelu silu mish hardswish hardtanh leaky_relu _prelu_kernel elu selu celu softplus threshold clamp_min "
    "glu log_sigmoid_forward _softmax _safe_softmax _log_softmax rrelu_with_noise".split()
)
_GATE = frozenset(("sigmoid", "hardsigmoid", "tanh"))
_SCALE = frozenset(("mul", "div"))
_NORM = {
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
}
_FREE = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t expand select slice squeeze unsqueeze split "
    "split_with_sizes alias detach empty new_empty zeros ones full arange unbind lift_fresh as_strided unfold "
    "empty_like empty_strided empty_permuted diagonal".split()
)


class Origins:
    """What each tensor was computed from, as the dispatcher saw it: the way back from what no mode sees."""

    def __init__(self) -> None:
        self._produced: dict[int, tuple[Any, Any]] = {}

    def note(self, args: Any, output: Any) -> None:
        """An operation computed ``output`` from ``args``."""
        if isinstance(output, torch.Tensor):
            if output.is_meta:  # else the numbers of a whole forward would stay in memory
                self._produced[id(output)] = (output, args)
        elif isinstance(output, (list, tuple)):
            for item in output:
                self.note(args, item)

    def of(self, tensor: torch.Tensor, known: Mapping[int, Any]) -> list[torch.Tensor]:
        """The nearest tensors among ``known`` that ``tensor`` was computed from."""
        sources: dict[int, torch.Tensor] = {}
        pending, seen = [tensor], {id(tensor)}
        while pending:
            entry = self._produced.get(id(pending.pop()))
            for source in tensors_in(entry[1]) if entry is not None else ():
                if id(source) in known:
                    sources[id(source)] = source
                elif id(source) not in seen:
                    seen.add(id(source))
                    pending.append(source)
        return list(sources.values())


class CountingMode(TorchDispatchMode):
    """Counts the operations that run under it and, unless told not to, labels the channel axes of what they give.

    Attributes:
        items: MACs by ``conv | linear | matmul``, elements by ``pool | activation | gate | scale``.
        uncounted: elements of operations that count as no FLOPs, by operation.
    """

    def __init__(self, labels: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.items: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.origins = Origins()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = packet(func)
        name = operation.__name__
        output = quick_result(name, args, kwargs or {})
        if output is None:
            output = func(*args, **(kwargs or {}))
        self._count(operation, name, args, kwargs or {}, output)
        if self.labels:
            propagate(name, args, output)
            self.origins.note(args, output)
        return output

    def _count(self, operation: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        formula = flop_registry.get(operation)
        if formula is not None:
            self.items[_MAC_KINDS.get(name, "matmul")] += _flops(formula, args, kwargs, output) // 2
            return
        base = name.rstrip("_")
        if base in _FREE:
            return
        if base in _POOL:
            self.items["pool"] += args[0].numel()
            return
        written = _first_tensor(output)
        elements = 0 if written is None else written.numel()
        if base in _ACTIVATION:
            self.items["activation"] += elements
        elif base in _GATE:
            self.items["gate"] += elements
        elif base in _SCALE:
            self.items["scale"] += elements
        elif elements:
            self.uncounted[_NORM.get(base, base)] += elements

    @property
    def macs(self) -> int:
        """Multiply-accumulates counted so far."""
        return sum(self.items[kind] for kind in ("conv", "linear", "matmul"))

    @property
    def flops(self) -> int:
        """``2 * macs`` plus one per element of pooling, activation, gate and scaling."""
        return 2 * self.macs + sum(self.items[kind] for kind in ("pool", "activation", "gate", "scale"))

    def cost(self, params: int, activation_bytes: int = 0) -> Cost:
        """What was counted, as a :class:`~sesurgery.plans.Cost`."""
        return Cost(params, self.macs, self.flops, dict(self.items), dict(self.uncounted), activation_bytes)


def parameters(model: nn.Module) -> int:
    """Number of parameters, by storage: a shared one counts once."""
    seen: set[Any] = set()
    total = 0
    for parameter in model.parameters():
        storage = parameter.untyped_storage()
        key = id(parameter) if parameter.is_meta else (storage.data_ptr(), parameter.storage_offset(), parameter.shape)
        if key not in seen:
            seen.add(key)
            total += parameter.numel()
    return total


def measure(module: nn.Module, *args: Any) -> Cost:
    """The cost of ``module(*args)``, run without gradients; meant for small modules on ``meta``."""
    return measured(module, *args)[1]


def measured(module: nn.Module, *args: Any) -> tuple[Any, Cost]:
    """What ``module(*args)`` gives, run without gradients, and its cost."""
    with torch.no_grad(), CountingMode() as mode, _LeafBytes(module) as memory:
        output = module(*args)
    return output, mode.cost(parameters(module), memory.total)


class _LeafBytes:
    """Adds up the outputs of a module's leaves while it runs."""

    def __init__(self, module: nn.Module) -> None:
        self.leaves = [part for part in module.modules() if not any(True for _ in part.children())]
        self.total = 0

    def __enter__(self) -> _LeafBytes:
        self.handles = [leaf.register_forward_hook(self._add) for leaf in self.leaves]
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _add(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            self.total += output.numel() * output.element_size()


def _flops(formula: Any, args: Any, kwargs: Any, output: Any) -> int:
    """What torch's formula says; its wrapper walks every argument as a tree, which flat arguments do not need."""
    raw = getattr(formula, "__wrapped__", None)
    flat = not kwargs and isinstance(output, torch.Tensor)
    if raw is None or not flat or any(isinstance(arg, (list, tuple)) and _tensor_in(arg) for arg in args):
        return formula(*args, **kwargs, out_val=output)
    shapes = (arg.shape if isinstance(arg, torch.Tensor) else arg for arg in args)
    return raw(*shapes, out_shape=output.shape)


def _tensor_in(items: Any) -> bool:
    return any(isinstance(item, torch.Tensor) for item in items)


def plus(cost: Cost, more: Cost, times: int = 1) -> Cost:
    """The cost of a model with ``more`` on top, its operations run ``times`` times."""
    items, uncounted = Counter(cost.items), Counter(cost.uncounted)
    for kind, count in more.items.items():
        items[kind] += count * times
    for kind, count in more.uncounted.items():
        uncounted[kind] += count * times
    return Cost(
        cost.params + more.params,
        cost.macs + more.macs * times,
        cost.flops + more.flops * times,
        dict(items),
        dict(uncounted),
        cost.bytes + more.bytes * times,
    )


def _first_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return _first_tensor(value[0])
    return None
