"""From planned insertions to the code of their hosts: new forwards, and the lines that change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.dataflow import Flow
from sesurgery.anatomy.merges import merges_of
from sesurgery.errors import StalePlanError, Unfit
from sesurgery.operating.actions import Action, SetChild, SetForward
from sesurgery.operating.operated_class import Code, code_of
from sesurgery.placement.placements import sites
from sesurgery.placement.sites import Site
from sesurgery.placement.sockets import filled
from sesurgery.plans import AppendBehind, Diff, Edit, FillSocket, Insertion, RewriteForward
from sesurgery.recipe.phrases import parse_at
from sesurgery.rewriting.graph_edits import Cut, cut_graph
from sesurgery.rewriting.new_forward import new_forward
from sesurgery.substitutes.registry import Build
from sesurgery.tracing.fingerprint import code_text, forward_text
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import Trace, trace


def insert_actions(
    anatomy: Anatomy, host: nn.Module, edits: Sequence[Edit], cache: dict[Any, Code]
) -> tuple[list[Action], Diff]:
    """What puts the layers of one host in; ``cache`` shares new forwards among equal hosts. Raises ``Unfit``."""
    actions: list[Action] = [
        SetChild(edit.host, name_of(edit), Build(edit.change.layer, edit.path), attention=True)
        for edit in edits
        if isinstance(edit.change, Insertion)
    ]
    forward = _forward_action(anatomy, host, edits, cache)
    return [*actions, *([] if forward is None else [forward])], _diff_of(anatomy.survey, host, edits)


def _forward_action(
    anatomy: Anatomy, host: nn.Module, edits: Sequence[Edit], cache: dict[Any, Code]
) -> SetForward | None:
    path = anatomy.survey.paths[host]
    behind = [name_of(edit) for edit in edits if isinstance(edit.change, AppendBehind)]
    if behind:
        return SetForward(path, behind_code(host, behind))
    cuts = _cuts(edits, RewriteForward)
    if not cuts:
        return None
    traced = anatomy.survey.trace(host)
    frame = anatomy.survey.frame(host)
    if not isinstance(traced, Trace) or frame is None:
        raise StalePlanError("its forward can no longer be traced", where=path, remedy="plan again on this model")
    # A None that the same operation fills must be called by the new forward too.
    filling = [name_of(edit) for edit in edits if isinstance(edit.change, FillSocket)]
    sockets = tuple(name for name in filling if host._modules.get(name) is None)
    places = [(edit.at, edit.change.ordinal) for edit in edits if isinstance(edit.change, RewriteForward)]
    key = (id(traced), tuple(cuts), tuple(at for at, _ in places), sockets)
    if key not in cache:
        try:
            with filled(host, sockets):
                base = trace(frame) if sockets else traced
                if not isinstance(base, Trace):
                    raise Unfit(base.reason)
                cache[key] = new_forward(frame, base, cuts, lambda other: _recut(anatomy, host, other, cuts, places))
        except KeyError as missing:
            raise StalePlanError(f"its forward has no {missing}", where=path, remedy="plan again") from None
    return SetForward(path, cache[key])


def name_of(edit: Edit) -> str:
    """The attribute of an edit's layer. It becomes part of a generated forward, so it must be a plain name."""
    name = edit.path.rpartition(".")[2]
    if not (name.isidentifier() or name.isdigit()):
        raise StalePlanError(f"{name!r} is no name of an attribute", where=edit.host, remedy="plan again")
    return name


def _cuts(edits: Sequence[Edit], *kinds: type[FillSocket] | type[RewriteForward]) -> list[Cut]:
    return [
        Cut(name_of(edit), edit.change.value, edit.change.users) for edit in edits if isinstance(edit.change, kinds)
    ]


def _recut(
    anatomy: Anatomy, host: nn.Module, traced: Trace, cuts: Sequence[Cut], places: Sequence[tuple[str, int]]
) -> list[Cut]:
    """The same sites, each by its phrase and number, in another trace of the host."""
    flow = Flow.of(traced.graph)
    merges = {**anatomy.merges, host: merges_of(host, traced, flow, anatomy.attention)}
    survey = anatomy.survey.with_trace(host, traced)
    other = replace(anatomy, survey=survey, merges=merges, flows={**anatomy.flows, host: flow})
    again = []
    for cut, (at, ordinal) in zip(cuts, places, strict=True):
        before, after = _sites_in(anatomy, host, at), _sites_in(other, host, at)
        if len(after) != len(before):
            raise Unfit("its forward takes another way while training, and the site is not there")
        site = after[ordinal]
        again.append(Cut(cut.name, site.value.name, tuple(user.name for user in site.users)))
    return again


def _sites_in(anatomy: Anatomy, host: nn.Module, at: str) -> list[Site]:
    return [site for site in sites(anatomy, parse_at(at)) if isinstance(site, Site) and site.host is host]


def behind_code(host: nn.Module, names: Sequence[str]) -> Code:
    """A forward that calls the one before it (the class's own, or an earlier operation's) and then the layers."""
    earlier = code_of(host)
    lines: list[str] = []
    call = "base.forward"
    if earlier is not None:
        call = f"forward_{len(earlier.source)}"
        lines += [re.sub(r"^def forward\(", f"def {call}(", earlier.source, flags=re.MULTILINE), ""]
    lines += ["def forward(self, *args, **kwargs):", f"    output = {call}(self, *args, **kwargs)"]
    lines += [f"    output = self.{name}(output)" for name in names]
    return Code("\n".join([*lines, "    return output"]) + "\n", dict(earlier.names) if earlier is not None else {})


def _diff_of(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> Diff:
    """The forward of a host before and after its insertions."""
    path = survey.paths[host]
    kind = type(host).__name__
    if any(isinstance(edit.change, AppendBehind) for edit in edits):
        after = behind_code(host, [name_of(edit) for edit in edits])
        return Diff((path,), kind, f"# {kind}.forward, unchanged", f"# {kind}.forward, then\n{after.source.rstrip()}")
    traced = survey.trace(host)
    if not isinstance(traced, Trace):
        return Diff((path,), kind, "", "")
    cuts = _cuts(edits, FillSocket, RewriteForward)
    before = forward_text(survey, host)
    key = ("diff", before, tuple(cuts))
    if key not in survey.memo:
        survey.memo[key] = code_text(cut_graph(traced.graph, cuts))
    return Diff((path,), kind, before, survey.memo[key])
