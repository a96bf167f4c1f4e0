"""Which convolutions, norms and activations a forward runs, counted without sesurgery: each is to be edited or listed.

Layers are known by torch's classes, functions by what a ``TorchFunctionMode`` sees of the code of a module that is not
torch's own; both of one forward. In it only the inputs ask for gradients, so that what does depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm.layers.activations
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "norm": (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm),
    "activation": tuple(
        kind
        for kind in [
            *(getattr(torch.nn.modules.activation, name) for name in torch.nn.modules.activation.__all__),
            *vars(timm.layers.activations).values(),
        ]
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.MultiheadAttention
    ),
}
_FUNCTIONS = {
    "conv": "conv1d conv2d conv3d",
    "norm": "batch_norm layer_norm group_norm instance_norm rms_norm",
    "activation": "relu relu6 silu gelu elu leaky_relu hardswish hardtanh mish selu celu prelu softplus sigmoid tanh "
    "hardsigmoid",
}
_KINDS = {name: kind for kind, names in _FUNCTIONS.items() for name in names.split()}


@dataclass
class Account:
    """What one forward ran.

    Attributes:
        modules: paths of layers, by kind, each with all the places where it is mounted.
        functions: how often a host's own code calls a function of a kind, by kind and path of the host.
    """

    modules: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _MODULES})
    functions: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in _MODULES})

    def total(self, kind: str) -> int:
        """How many there are, layers inside of a layer of their kind left out."""
        return len(list(self._layers(kind))) + sum(count for _, count in self._calls(kind))

    def missing(self, reported: Mapping[str, Collection[str]]) -> list[str]:
        """Those that are neither edited nor listed; ``reported`` are the paths that are, by kind."""
        lines = []
        for kind, paths in reported.items():
            lines += [f"{kind} {path}" for path in self._layers(kind) if not _inside(path, paths)]
            inside = Counter(path if path in self.functions[kind] else path.rpartition(".")[0] for path in paths)
            lines += [
                f"{kind} in the code of {host or 'the model'}: {count}, reported {inside[host]}"
                for host, count in self._calls(kind)
                if inside[host] < count
            ]
        return lines

    def _layers(self, kind: str) -> Iterator[str]:
        layers = self.modules[kind]
        return (path for path in sorted(layers) if not _inside(path.rpartition(".")[0], layers))

    def _calls(self, kind: str) -> Iterator[tuple[str, int]]:
        """What a layer does with its own weights is none (weight-standardised convolutions call a norm)."""
        layers = set().union(*self.modules.values())
        return ((host, count) for host, count in self.functions[kind].items() if not _inside(host, layers))


def _inside(path: str, layers: Collection[str]) -> bool:
    """Whether a path is that of a layer, or of something in one."""
    steps = path.split(".")
    return any(".".join(steps[:end]) in layers for end in range(1, len(steps) + 1))


def account(model: nn.Module, args: tuple[Any, ...]) -> Account:
    """Run ``model(*args)`` in eval mode, and count."""
    mode = _Functions()
    handles = [
        hook
        for module in model.modules()
        for hook in (
            module.register_forward_pre_hook(lambda module, args: mode.enter(module)),
            module.register_forward_hook(lambda module, args, output: mode.leave(), always_call=True),
        )
    ]
    modes = {module: module.training for module in model.modules()}
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval().requires_grad_(False)
        given = tree_map_only(torch.Tensor, _asking, args)
        with mode:
            model(*given)
    finally:
        for parameter in learnt:
            parameter.requires_grad_()
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    counted = Account()
    paths: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, path)
        for kind, kinds in _MODULES.items():
            if isinstance(module, kinds) and module in mode.called:
                counted.modules[kind].add(paths[module])
    for (module, kind), count in mode.most.items():
        counted.functions[kind][paths[module]] = count
    return counted


def _asking(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_() * 1 if tensor.is_floating_point() else tensor


class _Functions(TorchFunctionMode):
    """Counts the functions that each call of a module's own code makes; the most that one call made is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[tuple[nn.Module, Counter[str]]] = []
        self.called: set[nn.Module] = set()
        self.most: dict[tuple[nn.Module, str], int] = {}

    def enter(self, module: nn.Module) -> None:
        self.called.add(module)
        self.stack.append((module, Counter()))

    def leave(self) -> None:
        module, counts = self.stack.pop()
        if not type(module).__module__.startswith(("torch.nn.", "torch.ao.")):
            for kind, count in counts.items():
                self.most[module, kind] = max(count, self.most.get((module, kind), 0))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _KINDS.get(getattr(func, "__name__", "").rstrip("_"))
        output = func(*args, **(kwargs or {}))
        if kind is not None and self.stack and getattr(output, "requires_grad", False):
            self.stack[-1][1][kind] += 1
        return output
