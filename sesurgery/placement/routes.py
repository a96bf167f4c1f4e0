"""By which route a layer gets to its site: into a socket, into the graph of a forward, or behind a layer."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping

from torch import nn

from sesurgery import attention
from sesurgery.errors import Unfit
from sesurgery.operating.operated_class import base_of
from sesurgery.placement.sites import Site
from sesurgery.placement.sockets import socket_at
from sesurgery.plans import AppendBehind, AttentionLayer, Change, FillSocket, Insertion, RewriteForward
from sesurgery.recipe.rules import Insert
from sesurgery.tracing.survey import Survey, has_own_forward
from sesurgery.tracing.trace import Trace


def insertion(
    survey: Survey,
    site: Site,
    ordinal: int,
    edit: Insert,
    layer: AttentionLayer,
    names: Mapping[nn.Module, set[str]],
) -> tuple[Insertion, nn.Module, str]:
    """The safest route by which a layer gets to a site, into which host and under which name.

    Args:
        ordinal: which of its host's sites it is.
        names: what the rule has given its layers in each host so far; the new name is added.

    Raises:
        Unfit: no route leads there.
    """
    users = tuple(user.name for user in site.users)
    bare = edit.options.get("init") == "identity"
    socket = socket_at(survey, site, bare) if edit.name is None else None
    if socket is not None and socket[0] not in names[site.host]:
        names[site.host].add(socket[0])
        return FillSocket(layer, site.value.name, users, ordinal), site.host, socket[0]
    followed = _followed(survey, site)
    host = site.host if followed is None else followed
    if "forward" in host.__dict__:
        raise Unfit("its forward was set on the instance, and a new one of the class would not be called")
    name = _free_name(host, edit, site.role, names[host])
    names[host].add(name)
    change: Insertion = AppendBehind(layer)
    if followed is None:
        change = RewriteForward(layer, site.value.name, users, ordinal)
    return change, host, name


def _followed(survey: Survey, site: Site) -> nn.Module | None:
    """The layer behind which the new one goes, where the forward of the host had better stay as it is."""
    chain = type(site.host).forward is nn.Sequential.forward
    if chain and site.value.op != "call_module":
        raise Unfit("a Sequential has no place before its first child; operate on the module that calls it")
    if not chain and not (_other_ways_in(survey, site.host) and _only_child(survey, site)):
        return None
    layer = _last_layer_of(site)
    if not _in_one_place(survey, layer):
        raise Unfit(f"the {type(layer).__name__} it would follow is used in several places")
    return layer


def _other_ways_in(survey: Survey, host: nn.Module) -> tuple[str, ...]:
    key = ("entrances", host)
    if key not in survey.memo:
        traced = survey.trace(host)
        survey.memo[key] = entrances(host, traced) if isinstance(traced, Trace) else ()
    return survey.memo[key]


def _only_child(survey: Survey, site: Site) -> bool:
    """Whether a site is all that a child gives, in the one place where the child is: then a node can go behind it."""
    if site.value.op != "call_module" or not set(site.value.users) <= set(site.users or site.value.users):
        return False
    child = _last_layer_of(site)
    return (has_own_forward(child) or not list(child.children())) and _in_one_place(survey, child)


def _last_layer_of(site: Site) -> nn.Module:
    """The layer that gives the site's value, which a child of the host gives."""
    return last_layer(site.host.get_submodule(str(site.value.target)))


def _in_one_place(survey: Survey, module: nn.Module) -> bool:
    return len(survey.mounts[module]) == 1 and survey.probe.calls.get(module, 0) <= 1


def _free_name(host: nn.Module, edit: Insert, role: str, names: set[str]) -> str:
    wanted = edit.name or attention.child_name(edit.module)

    def free(name: str) -> bool:
        return name not in names and not hasattr(host, name)

    if free(wanted):
        return wanted
    if edit.name is not None and hasattr(host, wanted) and wanted not in names:
        raise Unfit(f'its {type(host).__name__} already has an attribute "{wanted}"; choose another name')
    candidates = [f"{wanted}_{role}"] if role and role != "branch" else []
    candidates += [f"{wanted}_{number}" for number in range(2, 1000)]
    return next(name for name in candidates if free(name))


def notes_on(survey: Survey, host: nn.Module, change: Change) -> tuple[str, ...]:
    """What a user should know about an edit of this host."""
    notes = []
    mounts, calls = survey.mounts[host], survey.probe.calls.get(host, 0)
    if len(mounts) > 1:
        notes.append(f"mounted at {', '.join(mounts)}: one host, edited once")
    if calls > 1:
        notes.append(f"called {calls} times in one forward: one host, edited once")
    others = _other_ways_in(survey, host) if isinstance(change, RewriteForward) else ()
    if others:
        notes.append(f"{type(host).__name__}.{', '.join(others)} called on its own runs these layers without the node")
    return tuple(notes)


def last_layer(module: nn.Module) -> nn.Module:
    """The layer whose output is a Sequential's output, however deep."""
    while type(module).forward is nn.Sequential.forward and len(module._modules):
        module = list(module.children())[-1]
    return module


def entrances(host: nn.Module, traced: Trace) -> tuple[str, ...]:
    """The methods, other than ``forward``, that are meant to be called and run layers which ``forward`` runs.

    Told by their name, as the libraries choose it (``forward_features``, ``forward_with_tap``); a private one counts
    unless it is a part of ``forward``.
    """
    kind = base_of(host)
    layers = {str(node.target).partition(".")[0] for node in traced.graph.nodes if node.op == "call_module"}
    parts = _reached(kind, "forward")
    return tuple(
        name
        for name in dir(kind)
        if "forward" in name
        and name != "forward"
        and not hasattr(nn.Module, name)
        and not (name.startswith("_") and name in parts)
        and any(layers & _names(kind, method) for method in {name, *_reached(kind, name)})
    )


def _reached(kind: type, method: str) -> set[str]:
    """The methods that a method calls, directly or not."""
    reached: set[str] = set()
    pending = [method]
    while pending:
        called = {name for name in _names(kind, pending.pop()) if _code(kind, name) is not None} - reached
        reached |= called
        pending.extend(called)
    return reached - {method}


def _names(kind: type, method: str) -> set[str]:
    code = _code(kind, method)
    return set() if code is None else {name for part in _nested(code) for name in part.co_names}


def _code(kind: type, method: str) -> types.CodeType | None:
    function = inspect.unwrap(getattr(kind, method, None))  # type: ignore[arg-type]
    return getattr(function, "__code__", None)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
