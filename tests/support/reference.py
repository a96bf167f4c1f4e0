"""How many sums of activations a whole-model torch.fx trace shows: a reference to hold the anatomy against.

The trace is the one that timm's and torchvision's ``create_feature_extractor`` take (torchvision's NodePathTracer with
timm's own lists of leaf modules and leaf functions); it knows nothing of sesurgery. Shapes come from one run of the
traced graph on ``meta``. Every sum of two tensors that both depend on the model's input is counted, for the
module in whose forward it stands.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from torch import nn
from torch.fx import Interpreter, Node
from torchvision.models.feature_extraction import NodePathTracer

_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Reference:
    """The sums of one model, by module path (of one call of the module).

    Attributes:
        sums: of two activations of one shape: what a residual add is.
        spreading: of two activations, one of which is broadcast over the other, with their shapes.
        failure: why the whole model could not be traced or run; then there is no reference.
    """

    sums: Mapping[str, int] = field(default_factory=dict)
    spreading: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A reference beside what the anatomy found.

    Attributes:
        reference: sums of two activations of one shape, all modules together; None where there is no reference.
        found: ``add`` merges of the anatomy.
        missing: modules in which the anatomy found fewer, each with both counts, and every sum that is broadcast.
        failure: why there is no reference.
    """

    reference: int | None
    found: int
    missing: tuple[str, ...] = ()
    failure: str | None = None

    def row(self) -> dict[str, Any]:
        """As plain data, for a line of JSON."""
        return {
            "reference": self.reference,
            "found": self.found,
            "missing": list(self.missing),
            "no_reference": self.failure,
        }


def reference(model: nn.Module, args: tuple[Any, ...]) -> Reference:
    """Trace ``model`` whole (in eval mode) and run the trace on ``args``; both lie on ``meta`` and stay as they are."""
    modes = {module: module.training for module in model.modules()}
    try:
        tracer = _Tracer()
        graph = tracer.trace(model.eval())
        values = _values(torch.fx.GraphModule(tracer.root, graph), args)
    except Exception as error:
        text = str(error).strip().splitlines()
        return Reference(failure=f"{type(error).__name__}: {text[0] if text else ''}"[:160])
    finally:
        for module, mode in modes.items():
            module.training = mode
    return _counted(graph, values, tracer)


def compare(model: nn.Module, args: tuple[Any, ...], found: Mapping[str, int]) -> Comparison:
    """Hold ``found`` (``add`` merges by module path, see :func:`sums_of`) against the reference of ``model``."""
    known = reference(model, args)
    if known.failure is not None:
        return Comparison(None, sum(found.values()), failure=known.failure)
    missing = [
        f"{path or 'the model itself'}: {count} sums of equal shapes, {found.get(path, 0)} found"
        for path, count in known.sums.items()
        if found.get(path, 0) < count
    ]
    for path, shapes in known.spreading.items():
        if found.get(path, 0) < known.sums.get(path, 0) + len(shapes):
            missing += [f"{path or 'the model itself'}: {shape} is broadcast: a shift, no residual" for shape in shapes]
    return Comparison(sum(known.sums.values()), sum(found.values()), tuple(missing))


def sums_of(inspection: Any) -> dict[str, int]:
    """The ``add`` merges of a :class:`sesurgery.records.Inspection`, or reported by an anatomy, by module path."""
    merges = getattr(inspection, "merges", inspection)
    return dict(Counter(merge.path.rpartition(".")[0] for merge in merges if merge.op == "add"))


class _Tracer(NodePathTracer):
    """Notes for every node in whose forward it stands, and how often each module is called."""

    def __init__(self) -> None:
        super().__init__(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
        self.owners: dict[Node, str] = {}
        self.calls: Counter[str] = Counter({"": 1})

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.calls[self.path_of_module(m)] += 1
        return super().call_module(m, forward, args, kwargs)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        self.owners[proxy.node] = self.current_module_qualname
        return proxy


class _Values(Interpreter):
    """Runs a graph and keeps what every node gave."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def _values(module: torch.fx.GraphModule, args: tuple[Any, ...]) -> dict[str, Any]:
    interpreter = _Values(module)
    with torch.no_grad(), torch.device("meta"):
        interpreter.run(*args)
    return interpreter.values


def _counted(graph: torch.fx.Graph, values: Mapping[str, Any], tracer: _Tracer) -> Reference:
    depends: dict[Node, bool] = {}
    sums: Counter[str] = Counter()
    spreading: dict[str, list[str]] = {}
    for node in graph.nodes:
        tensors = any(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(values[node.name]))
        inputs = [other for other in node.all_input_nodes if depends[other]]
        depends[node] = tensors and (node.op == "placeholder" or bool(inputs))
        if node.target not in _ADDS or not isinstance(values[node.name], torch.Tensor):
            continue
        terms = [term for term in node.args[:2] if isinstance(term, Node) and depends[term]]
        if len(terms) < 2:
            continue
        owner = tracer.owners[node]
        shapes = [tuple(values[term.name].shape) for term in terms]
        if shapes[0] == shapes[1]:
            sums[owner] += 1
        else:
            spreading.setdefault(owner, []).append(f"{shapes[0]} + {shapes[1]}")
    each = {path: -(-count // max(1, tracer.calls[path])) for path, count in sums.items()}
    shifts = {path: tuple(found[: -(-len(found) // max(1, tracer.calls[path]))]) for path, found in spreading.items()}
    return Reference(each, shifts)
