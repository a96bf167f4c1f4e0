"""Gates that are written out in a host's forward: taken out of it, or exchanged for the call of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx.node import map_arg

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import added, weight_layers
from sesurgery.anatomy.merges import Merge
from sesurgery.edits.insert import layer_cost, values_of
from sesurgery.edits.insert_code import method_diffs, name_of
from sesurgery.edits.kinds import Proposal
from sesurgery.errors import Unfit
from sesurgery.operating.actions import Action, SetChild, SetMethods
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.edited_class import merged
from sesurgery.plans import AttentionLayer, BypassGate, Diff, Edit, Identity
from sesurgery.recording.costs import CountingMode, parameters
from sesurgery.recording.nested import batch_of
from sesurgery.rewriting.graph_edits import Bypass, bypassed
from sesurgery.rewriting.trial import without_gates
from sesurgery.substitutes.registry import Build
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import join


@dataclass(frozen=True)
class Stripped:
    """A host's forward without some gates.

    Attributes:
        methods: edited, with those of earlier operations.
        spare: children of the host that no forward calls any more.
        macs: multiply-accumulates of what goes, for one sample.
    """

    methods: tuple[EditedMethod, ...]
    spare: tuple[str, ...]
    macs: int


def bypass(anatomy: Anatomy, gate: Merge, layer: AttentionLayer | None = None, name: str = "") -> Proposal:
    """Take a gate out of the forward of its host; a layer called ``name`` may take its place. Raises ``Unfit``."""
    survey, host = anatomy.survey, gate.host
    _refuse_sums(anatomy, gate)
    stripped = strip_host(anatomy, host, [(gate.node.name, None if layer is None else name)])
    params = -sum(parameters(host.get_submodule(spare)) for spare in stripped.spare)
    macs, end = -stripped.macs, "without it"
    if layer is not None:
        more, work = layer_cost(survey, layer, host, values_of(survey, host, gate.node))
        params, macs, end = params + more, macs + work, "to call a module"
    return Proposal(
        join(survey.paths[host], name or gate.node.name),
        BypassGate(gate.node.name, layer),
        "Identity" if layer is None else layer.module,
        params,
        macs,
        (f"a gate written in the forward: the forward is rewritten {end}",),
    )


def _refuse_sums(anatomy: Anatomy, gate: Merge) -> None:
    """Raise ``Unfit`` for one of several gates that are added up (scSE): without them as many activations would be."""
    gates = _gates(anatomy, gate.host)
    for user in gate.node.users:
        others = [gates[term.name] for term in added(user) if term is not gate.node and term.name in gates]
        if any(other.fork is gate.fork for other in others):
            place = user.meta.get("place")
            raise Unfit(
                f"{place or user.name} adds up several gates of one activation: they would leave it several times"
            )


def strip_host(anatomy: Anatomy, host: nn.Module, products: Sequence[tuple[str, str | None]]) -> Stripped:
    """Take gates out of a host's forward.

    Args:
        products: for each gate the name of its product in the graph and the child that takes its place, if one does.

    Raises:
        Unfit: the gate changes the shape, or a way through the forward (while training) that lacks it.
    """
    survey = anatomy.survey
    traced = survey.trace(host)
    gates = _gates(anatomy, host)
    if traced is None or any(name not in gates for name, _ in products):
        raise Unfit("its gate can no longer be found in its forward")
    bypasses = tuple(_bypass(gates[product], name) for product, name in products)
    methods = merged(type(host), without_gates(survey, host, bypasses))
    after = bypassed(traced.graph, bypasses)
    left = {node.name for node in after.nodes}
    kept = {str(node.target) for node in after.nodes if node.op == "call_module"}
    gone = [node for node in traced.graph.nodes if node.name not in left]
    spare = {str(node.target) for node in gone if node.op == "call_module"} - kept
    return Stripped(methods, tuple(sorted(spare)), _macs(survey, host, {node.name for node in gone}))


def _gates(anatomy: Anatomy, host: nn.Module) -> dict[str, Merge]:
    return {merge.node.name: merge for merge in anatomy.merges.get(host, ()) if merge.kind == "gate"}


def _bypass(gate: Merge, name: str | None) -> Bypass:
    gated = gate.identity
    if gated is None or gated.meta["val"].shape != gate.node.meta["val"].shape:
        raise Unfit("its product has another shape than what it gates")
    return Bypass(gate.node.name, gated.name, name)


def _macs(survey: Survey, host: nn.Module, names: set[str]) -> int:
    """What the nodes of these names cost in all calls of the host, run once more, for one sample."""
    graphs = [frame.graph for frame in survey.frames[host] if frame.graph is not None]
    with torch.no_grad(), torch.device("meta"), CountingMode() as mode:
        for node in (node for graph in graphs for node in graph.nodes if node.name in names):
            if not (node.op == "call_module" or weight_layers(node, host.get_submodule)):
                continue
            args = map_arg(node.args, lambda source: source.meta["val"])
            kwargs = map_arg(node.kwargs, lambda source: source.meta["val"])
            if node.op == "call_module":
                host.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_function":
                node.target(*args, **kwargs)  # type: ignore[operator]
    return mode.macs // batch_of(survey.args)


def bypass_actions(anatomy: Anatomy, host: nn.Module, edits: Sequence[Edit]) -> tuple[list[Action], list[Diff]]:
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
    actions.append(SetMethods(path, stripped.methods))
    return actions, method_diffs(path, type(host), stripped.methods)
