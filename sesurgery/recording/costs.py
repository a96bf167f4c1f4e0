"""Parameters, MACs, FLOPs and memory of one forward pass.

MACs come from torch's own registry of FLOP formulas, so they equal ``torch.utils.flop_counter.FlopCounterMode / 2``.
FLOPs are ``2 * MACs`` plus one per element of pooling (elements read), activation, gate and scaling (elements written).
Counting happens on aten operations, so the same squeeze-and-excitation costs the same however it is written.
What counts as no FLOPs (norms, additions, copies) is named with its number of elements, not passed over.
Activation bytes are what autograd keeps: the pass runs with gradients, and torch says itself what each operation saves.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sesurgery.plans import Cost, added
from sesurgery.recording.channel_axes import propagate
from sesurgery.recording.compat import (
    TorchDispatchMode,
    flop_registry,
    modules_in,
    packet,
    paths_in,
    saved_buffers,
    storage_of,
    weights_in,
)
from sesurgery.recording.fast_shapes import result
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


class Tally:
    """What one module's own code cost so far.

    Attributes:
        items: MACs by ``conv | linear | matmul``, elements by ``pool | activation | gate | scale``.
        uncounted: elements of operations that count as no FLOPs, by operation.
        kept: bytes that autograd keeps for the backward pass.
    """

    __slots__ = ("items", "kept", "uncounted")

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.kept = 0

    def add(self, other: Tally) -> None:
        """Count what another one counted as well."""
        self.items.update(other.items)
        self.uncounted.update(other.uncounted)
        self.kept += other.kept

    def share(self, samples: int) -> None:
        """What one of so many samples cost."""
        for counts in (self.items, self.uncounted):
            counts.update({kind: number // samples - number for kind, number in counts.items()})
        self.kept //= samples


class CountingMode(TorchDispatchMode):
    """Counts the operations that run under it and, unless told not to, labels the channel axes of what they give.

    Attributes:
        tally: of the module whose code runs; :meth:`enter` says which one does.
        kept: what autograd keeps meanwhile, where that is counted as well.
    """

    def __init__(self, labels: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.origins = Origins()
        self.kept: KeptBytes | None = None
        self.tally = Tally()
        self.tallies: dict[nn.Module | None, Tally] = {None: self.tally}

    def enter(self, module: nn.Module) -> Tally:
        """The code of ``module`` runs now. Returns the tally of the code that ran before, to be put back."""
        before = self.tally
        self.tally = self.tally_of(module)
        return before

    def tally_of(self, module: nn.Module) -> Tally:
        """What the code of ``module`` cost so far."""
        tally = self.tallies.get(module)
        if tally is None:
            tally = self.tallies[module] = Tally()
        return tally

    @contextlib.contextmanager
    def aside(self) -> Iterator[dict[nn.Module | None, Tally]]:
        """What modules cost meanwhile, counted in tallies of its own, which are added to the others afterwards."""
        outer, current = self.tallies, self.tally
        inner: dict[nn.Module | None, Tally] = {}
        self.tallies = inner
        since = 0 if self.kept is None else self.kept.mark()
        try:
            yield inner
        finally:
            if self.kept is not None:
                self.kept.settle(since)
            self.tallies, self.tally = outer, current
            for module, tally in inner.items():
                outer.setdefault(module, Tally()).add(tally)

    def called(self, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """``forward(*args, **kwargs)``, counted for ``module``."""
        before = self.enter(module)
        try:
            return forward(*args, **kwargs)
        finally:
            self.tally = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = packet(func)
        name = operation.__name__
        output = result(func, args, kwargs or {})
        self._count(operation, name, args, kwargs or {}, output)
        if self.kept is not None and name in _ATTENTION:
            self.kept.saw(name, args, output)
        if self.labels:
            propagate(name, args, output)
            self.origins.note(args, output)
        return output

    def _count(self, operation: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        items = self.tally.items
        formula = flop_registry.get(operation)
        if formula is not None:
            items[_MAC_KINDS.get(name, "matmul")] += _flops(formula, args, kwargs, output) // 2
            return
        base = name.rstrip("_")
        if base in _FREE:
            return
        if base in _POOL:
            items["pool"] += args[0].numel()
            return
        if base == "_scaled_dot_product_flash_attention_for_cpu":  # torch has formulas for those of GPUs only
            scores = args[0].shape[:-1].numel() * args[1].shape[-2]
            items["matmul"] += scores * (args[1].shape[-1] + args[2].shape[-1])
            items["activation"] += scores
            return
        written = _first_tensor(output)
        elements = 0 if written is None else written.numel()
        if base in _ACTIVATION:
            items["activation"] += elements
        elif base in _GATE:
            items["gate"] += elements
        elif base in _SCALE:
            items["scale"] += elements
        elif elements:
            self.tally.uncounted[_NORM.get(base, base)] += elements

    @property
    def macs(self) -> int:
        """Multiply-accumulates counted so far."""
        return sum(_macs(tally.items) for tally in self.tallies.values())

    def cost(self, model: nn.Module, samples: int = 1) -> Cost:
        """What was counted for one of the samples, with the sizes of ``model``: in all, and for each module alone."""
        weights = sizes(model)
        for tally in self.tallies.values() if samples > 1 else ():
            tally.share(samples)
        own = {"": _cost(self.tallies[None], 0, 0)}  # what ran in no module's forward
        for module, path in paths_in(model).items():
            tally = self.tallies.get(module)
            params, size = weights.get(module, (0, 0))
            if tally is not None or params or size:
                part = _cost(tally or Tally(), params, size)
                own[path] = part if path else added((own[""], part))
        return replace(added(own.values()), own=own)


class KeptBytes(saved_tensors_hooks):
    """What autograd keeps for the backward pass of a forward that runs in this context: each storage once.

    Parameters and buffers are left out. Attention counts as what torch's fused kernels keep: on ``meta`` it is written
    out, and the scores would be kept too.
    """

    def __init__(self, model: nn.Module, counting: CountingMode) -> None:
        super().__init__(self._pack, self._unpack)
        self.counting = counting
        self._kept: dict[int, tuple[torch.Tensor, Tally | None]] = {}
        self._order: list[int] = []
        self._saved: list[torch.Tensor] = []
        for weight in weights_in(model):
            self.keep(weight, None)
        self._scaled: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _pack(self, tensor: torch.Tensor) -> int:
        """A number stands for the tensor: an output that its own operation keeps would hold the graph for ever."""
        self.keep(tensor, self.counting.tally)
        self._saved.append(tensor)
        return len(self._saved) - 1

    def _unpack(self, number: int) -> torch.Tensor:
        return self._saved[number]

    def keep(self, tensor: torch.Tensor, tally: Tally | None) -> None:
        """The memory of a tensor is kept from now on, at the expense of ``tally``; None where it is counted already.

        The tensors stay, so that no other gets their memory, by which they are known.
        """
        if tensor.layout == torch.strided and (memory := storage_of(tensor)) not in self._kept:
            self._kept[memory] = tensor, tally
            self._order.append(memory)

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether the memory of a tensor is kept."""
        return storage_of(tensor) in self._kept

    def mark(self) -> int:
        """How much is kept so far, for :meth:`settle`."""
        return len(self._order)

    def settle(self, since: int) -> None:
        """Count the bytes of what is kept since a mark."""
        for memory in self._order[since:]:
            tensor, tally = self._kept[memory]
            if tally is not None:
                tally.kept += tensor.untyped_storage().nbytes()
                self._kept[memory] = tensor, None

    def saw(self, name: str, args: Any, output: Any) -> None:
        """An operation of those that torch writes attention with: scale the queries, scale the keys, softmax."""
        if name == "mul":
            if not isinstance(args[1], torch.Tensor):
                self._scaled = [*self._scaled[-1:], (output, args[0])]
        elif args[0].is_meta and args[0].ndim == 4 and len(self._scaled) == 2 and not _learns_bias(args[0]):
            for scaled, plain in self._scaled:
                self._waive(scaled)
                self.keep(plain, self.counting.tally)
            self._waive(output)
            self.counting.tally.kept += 4 * output.shape[:-1].numel()  # the log of each row's sum

    def _waive(self, tensor: torch.Tensor) -> None:
        """What the fused kernels do not keep costs nothing."""
        self.keep(tensor, None)
        self._kept[storage_of(tensor)] = tensor, None

    def __exit__(self, *raised: object) -> None:
        """Put the bytes into the tallies and let go of all: autograd's graph holds this object, out of gc's sight."""
        super().__exit__(*raised)
        self.settle(0)
        self._kept, self._order, self._scaled, self._saved = {}, [], [], []
        del self.counting


_ATTENTION = frozenset(("mul", "_safe_softmax"))


def _learns_bias(scores: torch.Tensor) -> bool:
    """Whether scores have a learned bias added to them: torch's kernels for the CPU do not fuse that."""
    function = scores.grad_fn
    terms = function.next_functions if function is not None and function.name().startswith("Add") else ()
    return len(terms) > 1 and terms[1][0] is not None


def _macs(items: Mapping[str, int]) -> int:
    return items.get("conv", 0) + items.get("linear", 0) + items.get("matmul", 0)


def _cost(tally: Tally, params: int, weight_bytes: int) -> Cost:
    """``2 * macs`` FLOPs plus one per element of pooling, activation, gate and scaling."""
    items, macs = dict(tally.items), _macs(tally.items)
    flops = 2 * macs + sum(items.get(kind, 0) for kind in ("pool", "activation", "gate", "scale"))
    return Cost(params, macs, flops, items, dict(tally.uncounted), tally.kept, weight_bytes)


def sizes(model: nn.Module) -> dict[nn.Module, tuple[int, int]]:
    """Parameters and bytes of state of each module's own, by storage: what is shared counts for the first."""
    seen: set[Any] = set()
    table: dict[nn.Module, tuple[int, int]] = {}
    for module in modules_in(model):
        params = size = 0
        state = [(tensor, True) for tensor in module._parameters.values()]
        state += [(tensor, False) for tensor in saved_buffers(module)]
        for tensor, is_parameter in state:
            if tensor is None or (key := (storage_of(tensor), tensor.storage_offset(), tensor.shape)) in seen:
                continue
            seen.add(key)
            params += tensor.numel() * is_parameter
            size += tensor.numel() * tensor.element_size()
        if size:
            table[module] = params, size
    return table


def parameters(model: nn.Module) -> int:
    """Number of parameters, by storage: a shared one counts once."""
    return sum(params for params, _ in sizes(model).values())


def measure(module: nn.Module, *args: Any) -> Cost:
    """The cost of ``module(*args)``, run without gradients; meant for small modules on ``meta``."""
    return measured(module, *args)[1]


def measured(module: nn.Module, *args: Any) -> tuple[Any, Cost]:
    """What ``module(*args)`` gives, run without gradients, and its cost. What autograd would keep is not counted."""
    with torch.no_grad(), CountingMode() as mode:
        output = module(*args)
    return output, mode.cost(module)


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


def _first_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return _first_tensor(value[0])
    return None
