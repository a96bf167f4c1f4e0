"""The edit ``insert``: a node of the registry at a site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from sesurgery import attention
from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.layer_kinds import drops
from sesurgery.edits.insert_code import diff_of, forward_action, name_of
from sesurgery.edits.kinds import edit_kind, refused, verify
from sesurgery.errors import StalePlanError, Unfit, UnfitHost
from sesurgery.operating.actions import Action, Realised, SetChild
from sesurgery.operating.backup import mark_of
from sesurgery.operating.operated_class import Code
from sesurgery.placement.inherited_options import resolve
from sesurgery.placement.placements import sites
from sesurgery.placement.routes import last_layer, notes_on, way_to
from sesurgery.placement.site_facts import facts
from sesurgery.placement.sites import Site, place_of
from sesurgery.plans import Cost, Diff, Edit, Skip
from sesurgery.recipe.rules import Insert, Rule
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.costs import measured
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey

# The means by which a node comes to what is there, so that costs only add up.
INSERTED = ("socket", "graph", "behind")


@edit_kind
class InsertKind:
    """Puts a node at every site that ``at:`` names and ``where:`` leaves."""

    action = "insert"

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """Sites, narrowed by ``where:``, each with a node that fits, or the reason why none does."""
        taken: dict[nn.Module, set[str]] = defaultdict(set)
        ordinals: dict[nn.Module, int] = defaultdict(int)
        for site in sites(anatomy, rule.at):
            if isinstance(site, Skip):
                yield replace(site, at=str(rule.at))
                continue
            ordinal = ordinals[site.host]
            ordinals[site.host] += 1
            try:
                yield _proposal(anatomy, rule, site, ordinal, taken)
            except Unfit as reason:
                yield Skip(place_of(anatomy, site), str(reason), str(rule.at))

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """Children to set and forwards to generate, host by host."""
        hosts: dict[str, list[Edit]] = defaultdict(list)
        for edit in edits:
            verify(anatomy.survey, edit)
            hosts[edit.host].append(edit)
        actions: list[Action] = []
        diffs: list[Diff] = []
        cache: dict[Any, Code] = {}
        for path, group in hosts.items():
            actions += [_child_action(edit) for edit in group]
            host = anatomy.survey.module(path)
            try:
                forward = forward_action(anatomy, host, group, cache)
            except Unfit as reason:
                raise UnfitHost(path, str(reason)) from None
            if forward is not None:
                actions.append(forward)
            diffs.append(diff_of(anatomy.survey, host, group))
        return Realised(tuple(actions), tuple(diffs))


def _proposal(anatomy: Anatomy, rule: Rule, site: Site, ordinal: int, taken: dict[nn.Module, set[str]]) -> Edit:
    survey = anatomy.survey
    edit = rule.edit
    assert isinstance(edit, Insert)
    value: torch.Tensor = site.value.meta["val"]
    found = facts(anatomy, survey.paths[site.host], value, site.conv, rule)
    mismatch = refused(rule, found)
    if mismatch:
        raise Unfit(mismatch)
    axis = channel_axis(value)
    if axis is None or axis == 0:
        raise Unfit(f"which axis of {tuple(value.shape)} holds the channels cannot be derived")
    if value.ndim == 3 and axis == 2 and value.shape[0] != survey.batch == value.shape[1]:
        raise Unfit(f"{tuple(value.shape)} is (L, N, C): its samples lie on axis 1, and a node would mix them")
    port = attention.Port(tuple(value.shape), axis)
    options = resolve(anatomy, edit.module, edit.options, site.host, port)
    present = _present(anatomy, site)
    if present is not None and rule.if_present == "refuse":
        raise Unfit(f"already has attention: {present}; use if_present: stack | replace")
    reason = attention.refusal(edit.module, port, options)
    if reason:
        raise Unfit(reason)
    if present is not None and rule.if_present == "replace":
        means, host, name = "child", site.host, present
    else:
        means, host, name = way_to(survey, site, edit, taken)
    cost = _node_cost(survey, edit.module, port, options)
    host_path = survey.paths[host]
    block = anatomy.block_of(survey.paths[site.host])
    return Edit(
        action="insert",
        path=f"{host_path}.{name}" if host_path else name,
        at=str(rule.at),
        host=host_path,
        stage=found.stage,
        block=survey.paths[block] if block is not None else None,
        channels=port.channels,
        module=attention.canonical(edit.module),
        options={**options, "shape": list(port.shape), "axis": axis},
        means=means,
        site={"value": site.value.name, "users": [user.name for user in site.users], "ordinal": ordinal},
        fingerprint=fingerprint(survey, host),
        params=cost.params,
        macs=cost.macs,
        notes=notes_on(survey, host, means),
    )


def node_cost(survey: Survey, edit: Edit) -> Cost:
    """The cost of an edit's node on the shape that its options name."""
    options = dict(edit.options)
    port = attention.Port(tuple(options.pop("shape")), options.pop("axis"))
    return _node_cost(survey, edit.module, port, options)


def _node_cost(survey: Survey, module: str, port: attention.Port, options: Mapping[str, Any]) -> Cost:
    key = ("node", module, port, repr(sorted(options.items())))
    if key not in survey.memo:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            node = attention.build(module, port, options).eval()
        output, cost = measured(node, torch.empty(port.shape, device="meta"))
        if getattr(output, "shape", None) != port.shape:
            raise Unfit(f"{module} does not give the shape that it takes, {port.shape}")
        survey.memo[key] = cost
    return survey.memo[key]


def _present(anatomy: Anatomy, site: Site) -> str | None:
    """The child of the host that already gates this very place, if there is one."""
    host = site.host
    near = [site.value, *_beyond_drops(host, site.users or site.value.users)]
    for node in near:
        if node.op == "call_module" and host.get_submodule(str(node.target)) in anatomy.attention:
            return str(node.target)
    if type(host).forward is nn.Sequential.forward and site.value.op == "call_module":
        child = last_layer(host.get_submodule(str(site.value.target)))
        mark = mark_of(child)
        if mark is not None and mark.nodes:
            return f"{site.value.target}.{mark.nodes[-1]}"
    for merge in anatomy.merges.get(host, ()):
        if merge.kind == "gate" and (site.value is merge.node or merge.node in near):
            return merge.node.name
    return None


def _beyond_drops(host: nn.Module, nodes: Iterable[Node]) -> list[Node]:
    """The nodes, and those behind a dropout or an identity among them (EfficientNet's ``aa`` stands before its SE)."""
    found = list(nodes)
    for node in found:
        if drops(node, host.get_submodule):
            found += [user for user in node.users if user not in found]
    return found


def _child_action(edit: Edit) -> SetChild:
    return SetChild(edit.host, name_of(edit), _Build(edit), node=True)


@dataclass(frozen=True)
class _Build:
    """Builds the node of an edit."""

    edit: Edit

    def __call__(self, old: nn.Module | None) -> nn.Module:
        options = dict(self.edit.options)
        port = attention.Port(tuple(options.pop("shape")), options.pop("axis"))
        try:
            return attention.build(self.edit.module, port, options)
        except Unfit as reason:
            raise StalePlanError(str(reason), where=self.edit.path, remedy="plan again on this model") from None
