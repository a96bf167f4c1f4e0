"""The layers that a phrase of ``at:`` names, of the whole model: modules, and operations written in a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import carries, own_weights
from sesurgery.anatomy.layer_kinds import (
    ACTIVATION_FUNCTIONS,
    CONV_FUNCTIONS,
    NORM_FUNCTIONS,
    function_name,
    is_activation_layer,
    is_conv,
    is_depthwise,
    is_norm,
)
from sesurgery.operating.backup import mark_of
from sesurgery.plans import Skip
from sesurgery.recipe.phrases import At
from sesurgery.recording.recorder import has_own_forward
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import join, outwards, within


@dataclass(frozen=True)
class Layer:
    """One layer of a model: a module, or an operation in the forward of its host.

    Attributes:
        path: of the module, or of the host and the operation's node.
        module: None for an operation.
        host, node: who calls it, and the node of the call; None where no graph shows a call.
        kernel, stride: of a convolution, per axis.
        depthwise: whether it is a convolution with as many groups as channels.
    """

    path: str
    module: nn.Module | None = None
    host: nn.Module | None = None
    node: Node | None = None
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    depthwise: bool = False


@dataclass(frozen=True)
class _Kind:
    """What a word means: which modules, which functions, and which of the layers that are either."""

    modules: Callable[[nn.Module], bool]
    functions: frozenset[str] = frozenset()
    picks: Callable[[Layer], bool] = lambda layer: True


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


_KINDS: dict[str, _Kind] = {
    "conv": _Kind(is_conv, CONV_FUNCTIONS),
    "spatial conv": _Kind(is_conv, CONV_FUNCTIONS, lambda layer: max(layer.kernel or (0,)) > 1),
    "pointwise conv": _Kind(is_conv, CONV_FUNCTIONS, lambda layer: max(layer.kernel or (0,)) == 1),
    "depthwise conv": _Kind(is_conv, CONV_FUNCTIONS, lambda layer: layer.depthwise),
    "linear": _Kind(_is_linear, frozenset({"linear"})),
    "norm": _Kind(is_norm, NORM_FUNCTIONS),
    "activation": _Kind(is_activation_layer, ACTIVATION_FUNCTIONS),
}
_NOUNS = {"conv": "convolutions", "linear": "linear layers", "norm": "norms", "activation": "activations"}


def layers_of(anatomy: Anatomy, at: At) -> Iterator[Layer | Skip]:
    """The layers that a phrase names, in the order of execution, and those that come near, with the reason.

    Layers inside of attention are left out; and as places, and where a number counts, those of a projection on an
    identity branch. A number counts inside the innermost module of a class that ``where: type`` names, else inside the
    block; in a model without blocks it counts through.
    """
    if at.layer == "module":
        yield from _modules(anatomy, at)
        return
    layers: list[Layer] = []
    for layer in _all(anatomy, at):
        reason = _why_not(anatomy, at, layer)
        if reason is None:
            layers.append(layer)
        else:
            yield Skip(layer.path, reason)
    if at.nth is None:
        yield from layers
        return
    groups: dict[str | None, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(_counted_in(anatomy, at, layer.path), []).append(layer)
    for path, group in groups.items():
        if path is None:
            yield from (Skip(each.path, "in no block, and a number counts the layers of a block") for each in group)
        elif picked := chosen(group, at.nth):
            yield picked
        else:
            yield Skip(path, f"it has {len(group)} such {_NOUNS[_noun(at)]}, so none is number {at.nth}")


def _noun(at: At) -> str:
    return at.layer.rpartition(" ")[2]


def chosen(group: list[Layer], nth: int) -> Layer | None:
    """The n-th of a group (from 1; -1 is the last) where there are so many."""
    index = nth - 1 if nth > 0 else nth
    return group[index] if -len(group) <= index < len(group) else None


def _counted_in(anatomy: Anatomy, at: At, path: str) -> str | None:
    survey = anatomy.survey
    if at.where is not None and at.where.type is not None:
        for outer in outwards(path)[1:-1]:
            if at.where.names((type(survey.module(outer)).__name__,), (), ()):
                return outer
    block = anatomy.block_of(path)
    return survey.paths[block] if block is not None else None if anatomy.blocks else ""


def _why_not(anatomy: Anatomy, at: At, layer: Layer) -> str | None:
    path = layer.path
    around = attention_around(anatomy, path)
    if around is not None:
        return f"a part of the attention {around}"
    counted = at.role == "place" or at.nth is not None
    if counted and _noun(at) in ("conv", "linear") and any(within(path, each) for each in _projections(anatomy)):
        return "a projection on an identity branch"
    return None


def attention_around(anatomy: Anatomy, path: str) -> str | None:
    """The path of the attention in which something lies; None where it lies in none."""
    paths = (anatomy.survey.paths[part] for part in anatomy.attention)
    return next((outer for outer in paths if within(path, outer)), None)


def _projections(anatomy: Anatomy) -> set[str]:
    memo = anatomy.survey.memo
    if "projections" not in memo:
        memo["projections"] = {
            join(anatomy.survey.paths[host], str(node.target))
            for host, merges in anatomy.merges.items()
            for merge in merges
            if merge.residual and merge.inner is None and merge.identity is not None
            for node in anatomy.flows[host].between(merge.fork, merge.identity)
            if node.op == "call_module"
        }
    return memo["projections"]


def _modules(anatomy: Anatomy, at: At) -> Iterator[Layer]:
    """The modules that the conditions of a rule name."""
    survey = anatomy.survey
    for module in survey.probe.frames:
        path = survey.paths[module]
        around = tuple(type(survey.module(outer)).__name__ for outer in outwards(path)[1:-1])
        names = (path, *(f"{path}.{end}" for end in _ends(at) if not hasattr(module, end)))
        if path and (at.where is None or at.where.names((type(module).__name__,), around, names)):
            yield _called(survey, module)


def _ends(at: At) -> set[str]:
    """Last names of the paths that a rule is about: they may be those of layers to come."""
    paths = (at.where.path or ()) if at.where is not None else ()
    return {end for end in (path.rpartition(".")[2] for path in paths) if end.isidentifier()}


def _all(anatomy: Anatomy, at: At) -> Iterator[Layer]:
    """All layers of a kind, those inside of another one left out; with a number also convolutions that were removed."""
    survey, kind = anatomy.survey, _KINDS[at.layer]
    removed = dict(_removed(survey.twin)) if at.nth is not None else {}
    outermost: set[str] = set()
    for item in _walk(survey):
        if isinstance(item, nn.Module):
            path = survey.paths[item]
            layer = _as_layer(survey, item, kind, removed)
        else:
            host, node = item
            path = survey.paths[host]
            layer = _written(survey, host, node, kind)
        if layer is None or any(outer in outermost for outer in outwards(path)):
            continue
        if layer.module is not None:
            outermost.add(path)
        if kind.picks(layer):
            yield layer


def _as_layer(survey: Survey, module: nn.Module, kind: _Kind, removed: dict[nn.Module, nn.Module]) -> Layer | None:
    if not survey.paths[module]:
        return None
    known = removed.get(module, module)
    if kind.modules(known):
        layer = _called(survey, module)
        if isinstance(known, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return replace(layer, kernel=known.kernel_size, stride=known.stride, depthwise=is_depthwise(known))
        return layer
    only = _only_convolution(survey, module) if kind.functions is CONV_FUNCTIONS else None
    return None if only is None else replace(_called(survey, module), **_geometry(only))


def _only_convolution(survey: Survey, module: nn.Module) -> Node | None:
    """The one convolution that a module with a weight of its own is, by a function of torch."""
    if not has_own_forward(module) or not any(weight.ndim >= 2 for weight in own_weights(module)):
        return None
    traced = survey.trace(module)
    nodes = [] if traced is None else [node for node in traced.graph.nodes if node.op.startswith("call_")]
    convolutions = [node for node in nodes if function_name(node) in CONV_FUNCTIONS]
    more = NORM_FUNCTIONS | ACTIVATION_FUNCTIONS
    others = any(
        function_name(node) in more
        or (node.op == "call_module" and any(True for _ in module.get_submodule(str(node.target)).parameters()))
        for node in nodes
    )
    return convolutions[0] if len(convolutions) == 1 and not others else None


def _written(survey: Survey, host: nn.Module, node: Node, kind: _Kind) -> Layer | None:
    if function_name(node) not in kind.functions or not carries(node):
        return None
    geometry: dict[str, Any] = _geometry(node) if kind.functions is CONV_FUNCTIONS else {}
    return Layer(join(survey.paths[host], node.name), None, host, node, **geometry)


def _geometry(node: Node) -> dict[str, Any]:
    """Kernel, stride and groups of a call of ``torch.conv2d`` and its like."""

    def argument(index: int, name: str, default: Any) -> Any:
        return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)

    source, weight = (argument(index, name, None) for index, name in ((0, "input"), (1, "weight")))
    shapes = [each.meta["val"].shape for each in (source, weight) if isinstance(each, Node)]
    if len(shapes) < 2:
        return {}
    kernel = tuple(shapes[1][2:])
    stride = argument(3, "stride", 1)
    strides = tuple(stride) if isinstance(stride, (list, tuple)) else (stride,) * len(kernel)
    groups = argument(6, "groups", 1)
    return {"kernel": kernel, "stride": strides, "depthwise": groups != 1 and groups == shapes[0][1]}


def _called(survey: Survey, module: nn.Module) -> Layer:
    host, _, node = survey.callers.get(module, (None, None, None))
    return Layer(survey.paths[module], module, host, node)


def _walk(survey: Survey) -> list[nn.Module | tuple[nn.Module, Node]]:
    """Every module that runs and every function that a forward calls, in the order of the first call."""
    if "walk" not in survey.memo:
        items: dict[nn.Module | tuple[nn.Module, Node], None] = {}

        def visit(module: nn.Module) -> None:
            if module in items:
                return
            items[module] = None
            traced, frame = survey.trace(module), survey.frame(module)
            if traced is None:
                for child in frame.children if frame is not None else ():
                    visit(child.module)
                return
            for node in traced.graph.nodes:
                if node.op == "call_module":
                    visit(module.get_submodule(str(node.target)))
                elif node.op.startswith("call_"):
                    items[module, node] = None

        visit(survey.twin)
        for module in survey.probe.frames:
            visit(module)
        survey.memo["walk"] = list(items)
    return survey.memo["walk"]


def _removed(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The identities that an operation put in the place of a layer, each with that layer."""
    for host in model.modules():
        mark = mark_of(host)
        for name, (kind, old) in (mark.attributes if mark is not None else {}).items():
            child = host._modules.get(name)
            if kind == "module" and type(child) is nn.Identity and isinstance(old, nn.Module):
                yield child, old
