"""Empty sockets: an attribute that a host keeps for attention and that is ``None`` or ``Identity`` now.

Whether a socket lies at a site is not read off its name: a probe is put into it, the host is traced again, and the
graph shows where the probe is called. The name only says that the socket is meant for attention (a ``None`` where a
projection might go is no place for a gate). A node that takes a socket needs no generated code at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.layer_kinds import Child, drops
from sesurgery.placement.sites import Site
from sesurgery.recording.author_places import own_code
from sesurgery.recording.recorder import Frame, record_call
from sesurgery.rewriting.trial import filled
from sesurgery.tracing.fingerprint import forward_kind
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import Trace

_MEANT = re.compile(r"(se|attn|att|attention|eca|ese|cbam|gate|squeeze_excit\w*)([_.]?\w*|\d*)", re.IGNORECASE)


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


def empty_sockets(survey: Survey, host: nn.Module) -> list[tuple[str, Trace, Node]]:
    """Every empty socket of a host: its name, a trace in which it is called, and the node of the call."""
    key = ("empty sockets", host)
    if key not in survey.memo:
        survey.memo[key] = list(_empty_sockets(survey, host))
    return survey.memo[key]


def _empty_sockets(survey: Survey, host: nn.Module) -> Iterator[tuple[str, Trace, Node]]:
    traced = survey.trace(host)
    if not isinstance(traced, Trace):
        return
    chain = isinstance(host, nn.Sequential)
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(host.get_submodule(str(node.target))) is nn.Identity:
            name = str(node.target)
            if "." not in name and (chain or _MEANT.fullmatch(name)) and len(node.args) == 1:
                yield name, traced, node
    for name in _nones(host):
        probed = _probe(survey, host, name)
        if probed is not None:
            yield name, *probed


def _nones(host: nn.Module) -> Iterator[str]:
    """The attributes that are ``None``, are meant for attention, and that the host's own code names."""
    fields = [name for name, value in (*host.__dict__.items(), *host._modules.items()) if value is None]
    meant = [name for name in fields if _MEANT.fullmatch(name)]
    if meant:
        named = {name for code in own_code(host).values() for name in code.co_names}
        yield from (name for name in meant if name in named)


def _probe(survey: Survey, host: nn.Module, name: str) -> tuple[Trace, Node] | None:
    """The trace of a host with a probe in an empty place, and the node of the probe's one call; once a kind of host."""
    key = ("probe", forward_kind(survey, host), name)
    if key not in survey.memo:
        survey.memo[key] = None
        frame = survey.frame(host)
        if frame is not None:
            with filled(host, (name,)):
                again = _recorded(host, frame)
            survey.memo[key] = None if again is None else _called_once(again, name)
    return survey.memo[key]


def _recorded(host: nn.Module, frame: Frame) -> Trace | None:
    try:
        graph = record_call(host, frame).graph
    except Exception:
        return None  # with something in that place the forward asks for more than a call
    return None if graph is None else Trace(graph)


def _called_once(traced: Trace, name: str) -> tuple[Trace, Node] | None:
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == name]
    return (traced, calls[0]) if len(calls) == 1 and len(calls[0].args) == 1 else None


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
