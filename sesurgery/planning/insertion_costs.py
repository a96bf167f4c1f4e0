"""What inserted layers add to a model's costs, without a forward of the model for each choice of layers.

Parameters and operations of layers add up. What autograd keeps does not: a tensor that a layer reads may be kept by its
neighbours already, and those behind it keep what it gives in the place of what it got. But that depends on the sites,
and on what a layer keeps of its input and its output, and on nothing else of the layer. So it is counted once on a copy
of the model, and serves every layer that keeps alike. Where the sum of parts is not what the copy costs, copies decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sesurgery.edits.driver import Step
from sesurgery.operating.actions import SetChild
from sesurgery.planning.rehearsal import cost_with
from sesurgery.plans import AttentionLayer, Cost, Edit, Insertion, added
from sesurgery.recording.compat import storage_of
from sesurgery.recording.costs import CountingMode, KeptBytes
from sesurgery.recording.nested import batch_of
from sesurgery.substitutes.registry import on_meta
from sesurgery.tracing.survey import Survey


@dataclass(frozen=True)
class _Layer:
    """A layer by itself.

    Attributes:
        cost: its activation bytes are what it keeps besides its input and its output.
        outside: what its neighbours notice of it.
    """

    cost: Cost
    outside: tuple[Any, ...]


@dataclass(frozen=True)
class _Site:
    """Where a step inserts a layer; ``place`` is equal for layers that keep alike."""

    stage: int | None
    place: tuple[Any, ...]
    layer: _Layer


class InsertionCosts:
    """Costs of a model with some of the layers that a step inserts.

    Args:
        survey: of the unmodified model.
    """

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self._layers: dict[Any, _Layer | None] = {}
        self._steps: dict[int, tuple[Step, dict[str, _Site] | None]] = {}
        self._around: dict[frozenset[Any], int | None] = {}

    def of(self, step: Step, edits: Sequence[Edit]) -> Cost:
        """The cost with these edits of a step, all or none of each host."""
        if not edits:
            return self.survey.cost
        if id(step) not in self._steps:
            self._steps[id(step)] = step, self._sites(step)
        _, sites = self._steps[id(step)]
        if sites is not None:
            chosen = [sites[edit.path] for edit in edits]
            around = self._bytes_around(step, sites, chosen)
            if around is not None:
                return self._added(chosen, around)
        return self._counted(step, {edit.host for edit in edits})

    def _added(self, chosen: Sequence[_Site], around: int = 0) -> Cost:
        cost = added([self.survey.cost, *(site.layer.cost for site in chosen)])
        return replace(cost, activation_bytes=cost.activation_bytes + around)

    def _counted(self, step: Step, hosts: Collection[str]) -> Cost:
        return cost_with(self.survey, [action for action in step.actions if action.host in hosts])

    def _bytes_around(self, step: Step, sites: Mapping[str, _Site], chosen: Sequence[_Site]) -> int | None:
        """What the neighbours of the layers keep more; None where the costs of these sites do not add up."""
        key = _places(chosen)
        if key not in self._around:
            around = self._from_stages(step, sites, chosen)
            self._around[key] = self._on_a_copy(step, sites, chosen) if around is None else around
        return self._around[key]

    def _on_a_copy(self, step: Step, sites: Mapping[str, _Site], chosen: Sequence[_Site]) -> int | None:
        hosts = {path.rpartition(".")[0] for path, site in sites.items() if site in chosen}
        counted, sums = self._counted(step, hosts), self._added(chosen)
        adds_up = replace(sums, activation_bytes=counted.activation_bytes) == counted
        return counted.activation_bytes - sums.activation_bytes if adds_up else None

    def _from_stages(self, step: Step, sites: Mapping[str, _Site], chosen: Sequence[_Site]) -> int | None:
        """The sum over the stages that were chosen, where those of all stages are known and add up to the whole."""
        stages: dict[int | None, list[_Site]] = {}
        for site in sites.values():
            stages.setdefault(site.stage, []).append(site)
        picked = {site.stage for site in chosen}
        parts = {stage: self._around.get(_places(group)) for stage, group in stages.items()}
        whole = len(chosen) == len(sites) or len(chosen) < sum(len(stages[stage]) for stage in picked)
        if len(picked) < 2 or whole or None in parts.values():
            return None
        known = {stage: part for stage, part in parts.items() if part is not None}
        if self._bytes_around(step, sites, list(sites.values())) != sum(known.values()):
            return None
        return sum(known[stage] for stage in picked)

    def _sites(self, step: Step) -> dict[str, _Site] | None:
        """The sites of a step by the paths of their layers; None where some layer says nothing by itself."""
        survey, sites = self.survey, dict[str, _Site]()
        plain = survey.body is None and batch_of(survey.args) == 1 and survey.cost.activation_bytes > 0
        dtypes = {action.dtype for action in step.actions if isinstance(action, SetChild)}
        if not plain or not dtypes <= {None, torch.float32}:
            return None
        for edit in step.edits:
            change = edit.change
            once = survey.probe.calls.get(survey.module(edit.host)) == 1
            layer = self._layer(change.layer) if isinstance(change, Insertion) and once else None
            if layer is None:
                return None
            where = [(name, value) for name, value in vars(change).items() if name != "layer"]
            sites[edit.path] = _Site(edit.stage, (edit.host, *where, layer.outside), layer)
        return sites

    def _layer(self, new: AttentionLayer) -> _Layer | None:
        key = (new.module, repr(sorted(new.options.items())), new.shape, new.axis)
        if key not in self._layers:
            self._layers[key] = _by_itself(on_meta(new, None), new.shape)
        return self._layers[key]


def _places(sites: Iterable[_Site]) -> frozenset[Any]:
    return frozenset(site.place for site in sites)


def _by_itself(layer: nn.Module, shape: tuple[int, ...]) -> _Layer | None:
    """A layer on ``meta``, run on an activation of this shape that asks for gradients; None where it cannot be."""
    counting = CountingMode(labels=False)
    given = torch.empty(shape, device="meta", requires_grad=True)
    x = given.view(shape)  # an activation is no leaf: it may be written in place
    counting.kept = kept = KeptBytes(layer, counting)
    try:
        with torch.inference_mode(False), torch.enable_grad(), kept, counting:
            output = layer(x)
            in_kept, out_kept = kept.has(x), kept.has(output)
    except Exception:
        return None
    ends = {storage_of(tensor): tensor.untyped_storage().nbytes() for tensor in (x, output)}
    kept_ends = {storage_of(tensor) for tensor, is_kept in ((x, in_kept), (output, out_kept)) if is_kept}
    cost = counting.cost(layer)
    own = cost.activation_bytes - sum(ends[key] for key in kept_ends)
    outside = (in_kept, out_kept, len(ends), output.stride(), ends[storage_of(output)], output.dtype)
    return _Layer(replace(cost, activation_bytes=own, own={}), outside)
