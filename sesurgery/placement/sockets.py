"""Empty sockets: an attribute that a host keeps for attention and that is ``None`` or ``Identity`` now.

Whether a socket lies at a site is not read off its name: a probe is put into it, the host is traced again, and the
graph shows where the probe is called. The name only says that the socket is meant for attention (a ``None`` where a
projection might go is no place for a gate). A node that takes a socket needs no generated code at all.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.layer_kinds import Child, drops
from sesurgery.placement.sites import Site
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import Case, Failure, Trace, trace_all

_MEANT = re.compile(r"(se|attn|att|attention|eca|ese|cbam|gate|squeeze_excit\w*)([_.]?\w*|\d*)", re.IGNORECASE)


class _Probe(nn.Identity):
    """Put into a ``None`` socket to see where it is called."""


def socket_at(survey: Survey, site: Site, bare: bool = False) -> tuple[str, Trace] | None:
    """The name of the host's empty socket at ``site`` and the trace that shows it called, or None.

    Args:
        bare: the host may do nothing more than call what fills the socket (NFNets also scale by a gain then).
    """
    for name, traced, node in empty_sockets(survey, site.host):
        if _at_site(site, traced, node) and not (bare and _does_more(survey, site.host, traced)):
            return name, traced
    return None


def _does_more(survey: Survey, host: nn.Module, filled_: Trace) -> bool:
    """Whether a host with a filled socket runs more than the one call that it did not run before."""
    empty = survey.trace(host)
    return isinstance(empty, Trace) and empty is not filled_ and len(filled_.graph.nodes) > len(empty.graph.nodes) + 1


def empty_sockets(survey: Survey, host: nn.Module) -> Iterator[tuple[str, Trace, Node]]:
    """Every empty socket of a host: its name, a trace in which it is called, and the node of the call."""
    traced = survey.trace(host)
    if not isinstance(traced, Trace):
        return
    chain = isinstance(host, nn.Sequential)
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(host.get_submodule(str(node.target))) is nn.Identity:
            name = str(node.target)
            if "." not in name and (chain or _MEANT.fullmatch(name)) and len(node.args) == 1:
                yield name, traced, node
    for name in _nones(traced):
        probed = _probes(survey).get((fingerprint(survey, host), name))
        if probed is not None:
            yield name, *probed


def _nones(traced: Trace) -> Iterator[str]:
    """What a forward reads as ``None`` where attention is meant to go."""
    return (name for name, value in traced.reads.items() if value is None and _MEANT.fullmatch(name))


def _probes(survey: Survey) -> dict[tuple[str, str], tuple[Trace, Node] | None]:
    """For each kind of host and each ``None`` in it: the trace with a probe there, and the node of its one call."""
    if "probes" not in survey.memo:
        kinds = {
            (fingerprint(survey, host), name): (host, name)
            for host, traced in survey.hosts()
            for name in _nones(traced)
        }
        cases = [
            Case(survey.probe.frames[host], around=functools.partial(filled, host, (name,)))
            for host, name in kinds.values()
        ]
        found = trace_all(cases) if cases else []
        survey.memo["probes"] = {
            key: _called_once(traced, name) for (key, (_, name)), traced in zip(kinds.items(), found, strict=True)
        }
    return survey.memo["probes"]


def _called_once(traced: Trace | Failure, name: str) -> tuple[Trace, Node] | None:
    if not isinstance(traced, Trace):
        return None
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == name]
    return (traced, calls[0]) if len(calls) == 1 and len(calls[0].args) == 1 else None


@contextlib.contextmanager
def filled(host: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """A host whose sockets of these names hold something for a while, so that its forward calls them."""
    fields, children = dict(host.__dict__), dict(host._modules)
    try:
        for name in names:
            host.__dict__.pop(name, None)
            host._modules[name] = _Probe()
        yield
    finally:
        host.__dict__.update(fields)
        host._modules.clear()
        host._modules.update(children)


def _at_site(site: Site, traced: Trace, call: Node) -> bool:
    """Whether the call takes the site's activation and is all that the site's users would see of it."""
    by_name = {node.name: node for node in traced.graph.nodes}
    value = by_name.get(site.value.name)
    source = call.args[0]
    if value is None or not isinstance(source, Node):
        return False
    child = _child_of(site.host)
    between: Node = source
    while between is not value and drops(between, child) and isinstance(between.args[0], Node):
        between = between.args[0]
    if call is value:  # then it gates for every user, and the site may be meant for some of them only
        return not site.users or {user.name for user in value.users} <= {user.name for user in site.users}
    if between is not value or source not in (value, *_only_line(value)):
        return False
    wanted = {user.name for user in site.users}
    through = {source, *(() if source is value else _only_line(value))}
    users = [user for user in value.users if user not in through and user is not call]
    return all(user.name not in wanted for user in users) if wanted else not users


def _only_line(value: Node) -> list[Node]:
    """The nodes behind ``value`` as long as there is one way only."""
    line: list[Node] = []
    while len(value.users) == 1:
        value = next(iter(value.users))
        line.append(value)
    return line


def _child_of(host: nn.Module) -> Child:
    def child(path: str) -> nn.Module:
        try:
            return host.get_submodule(path)
        except AttributeError:
            return nn.Identity()

    return child
