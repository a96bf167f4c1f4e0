"""Gates that are written out in a host's forward: taken out of it, or exchanged for the call of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import Flow, weight_layers
from sesurgery.anatomy.merges import Merge, gates_of
from sesurgery.edits.insert_code import name_of
from sesurgery.edits.kinds import Proposal
from sesurgery.errors import Unfit
from sesurgery.operating.actions import Action, SetChild, SetForward
from sesurgery.operating.operated_class import Code
from sesurgery.plans import AttentionLayer, BypassGate, Diff, Edit, Identity
from sesurgery.recording.costs import CountingMode, measure, parameters
from sesurgery.rewriting.graph_edits import Bypass, bypassed
from sesurgery.rewriting.new_forward import new_forward
from sesurgery.substitutes.registry import Build, on_meta
from sesurgery.tracing.fingerprint import code_text
from sesurgery.tracing.trace import Trace
from sesurgery.words.paths import join


@dataclass(frozen=True)
class Stripped:
    """A host's forward without some gates.

    Attributes:
        code: of the new forward.
        spare: children of the host that no forward calls any more.
        before, after: the graphs, for people.
        macs: multiply-accumulates of what goes.
    """

    code: Code
    spare: tuple[str, ...]
    before: str
    after: str
    macs: int


def bypass(anatomy: Anatomy, gate: Merge, layer: AttentionLayer | None = None, name: str = "") -> Proposal:
    """Take a gate out of the forward of its host; a layer called ``name`` may take its place. Raises ``Unfit``."""
    survey, host = anatomy.survey, gate.host
    stripped = strip_host(anatomy, host, [(gate.node.name, None if layer is None else name)])
    params = -sum(parameters(host.get_submodule(spare)) for spare in stripped.spare)
    macs, end = -stripped.macs, "without it"
    if layer is not None:
        cost = measure(on_meta(layer, None), torch.empty(layer.shape, device="meta"))
        params, macs, end = params + cost.params, macs + cost.macs, "to call a module"
    return Proposal(
        join(survey.paths[host], name or gate.node.name),
        BypassGate(gate.node.name, layer),
        "Identity" if layer is None else layer.module,
        params,
        macs * max(1, survey.probe.calls.get(host, 1)),
        (f"a gate written in the forward: the forward is rewritten {end}",),
    )


def strip_host(anatomy: Anatomy, host: nn.Module, products: Sequence[tuple[str, str | None]]) -> Stripped:
    """Take gates out of a host's forward.

    Args:
        products: for each gate the name of its product in the graph and the child that takes its place, if one does.

    Raises:
        Unfit: the gate changes the shape, or a way through the forward (while training) that lacks it.
    """
    survey = anatomy.survey
    traced, frame = survey.trace(host), survey.frame(host)
    gates = _gates(anatomy, host)
    if not isinstance(traced, Trace) or frame is None or any(name not in gates for name, _ in products):
        raise Unfit("its gate can no longer be found in its forward")
    if "forward" in host.__dict__:
        raise Unfit("its forward was set on the instance, and a new one of the class would not be called")
    order = list(gates)
    bypasses = [_bypass(gates[product], name) for product, name in products]
    kept: set[str] = set()

    def change(graph: Graph, changes: Sequence[Any]) -> Graph:
        changed = bypassed(graph, changes)
        kept.update(str(node.target) for node in changed.nodes if node.op == "call_module")
        return changed

    def again(other: Trace) -> list[Bypass]:
        others = gates_of(host, other, Flow.of(other.graph))
        if len(others) != len(order):
            raise Unfit("its forward takes another way while training, and the gate is not there")
        return [_bypass(others[order.index(product)], name) for product, name in products]

    code = new_forward(frame, traced, bypasses, again, change)
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    after = bypassed(traced.graph, bypasses)
    gone = [node for node in traced.graph.nodes if node.name not in {left.name for left in after.nodes}]
    return Stripped(code, tuple(sorted(called - kept)), code_text(traced.graph), code_text(after), _macs(host, gone))


def _gates(anatomy: Anatomy, host: nn.Module) -> dict[str, Merge]:
    return {merge.node.name: merge for merge in anatomy.merges.get(host, ()) if merge.kind == "gate"}


def _bypass(gate: Merge, name: str | None) -> Bypass:
    gated = gate.identity
    if gated is None or gated.meta["val"].shape != gate.node.meta["val"].shape:
        raise Unfit("its product has another shape than what it gates")
    return Bypass(gate.node.name, gated.name, name)


def _macs(host: nn.Module, nodes: Sequence[Node]) -> int:
    """What the nodes cost, run once more."""
    with torch.no_grad(), torch.device("meta"), CountingMode() as mode:
        for node in nodes:
            if not (node.op == "call_module" or weight_layers(node, host.get_submodule)):
                continue
            args = map_arg(node.args, lambda source: source.meta["val"])
            kwargs = map_arg(node.kwargs, lambda source: source.meta["val"])
            if node.op == "call_module":
                host.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_function":
                node.target(*args, **kwargs)  # type: ignore[operator]
    return mode.macs


def bypass_actions(anatomy: Anatomy, host: nn.Module, edits: Sequence[Edit]) -> tuple[list[Action], Diff]:
    """What takes the gates of one host out, or puts layers in their place. Raises ``Unfit``."""
    path = anatomy.survey.paths[host]
    changes = [(edit, edit.change) for edit in edits if isinstance(edit.change, BypassGate)]
    stripped = strip_host(
        anatomy, host, [(change.product, None if change.layer is None else name_of(edit)) for edit, change in changes]
    )
    actions: list[Action] = [
        SetChild(path, name_of(edit), Build(change.layer, edit.path), attention=True)
        for edit, change in changes
        if change.layer is not None
    ]
    for spare in (join(path, name) for name in stripped.spare):
        holder, _, child = spare.rpartition(".")
        actions.append(SetChild(holder, child, Build(Identity(), spare)))
    actions.append(SetForward(path, stripped.code))
    return actions, Diff((path,), type(host).__name__, stripped.before, stripped.after)
