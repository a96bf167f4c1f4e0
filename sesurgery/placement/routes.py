"""By which route a layer gets to its site: into a socket, into the graph of a forward, or behind a layer."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from torch.fx import GraphModule

from sesurgery import attention
from sesurgery.anatomy.dataflow import is_scaling
from sesurgery.anatomy.layer_kinds import is_conv, is_norm
from sesurgery.errors import Unfit
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.placement.sites import Site
from sesurgery.placement.sockets import socket_at
from sesurgery.plans import AppendBehind, AttentionLayer, FillSocket, InsertIntoGraph, Insertion, RewriteForward
from sesurgery.recipe.rules import Insert, Replace
from sesurgery.recording.recorder import has_own_forward, is_chain
from sesurgery.rewriting.trial import behind, tried, waits_for_turns
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import join


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
    if followed is not None and (later := _later(survey, site, followed)) is not None:
        with contextlib.suppress(Unfit):  # then it goes behind the layer after all
            return insertion(survey, later, ordinal, edit, layer, names)
    if followed is None:
        name = _free_name(site.host, edit, site.role, names[site.host])
        graph = isinstance(site.host, GraphModule)
        try:
            tried(survey, site.host, LayerCall(name, site.value.name, users))
        except Unfit:
            if graph:
                raise
            if (other := _elsewhere(survey, site)) is not None:
                return insertion(survey, other, ordinal, edit, layer, names)
            if not _only_child(survey, site):
                raise
            followed = _last_layer_of(site)
        else:
            names[site.host].add(name)
            change = InsertIntoGraph if graph else RewriteForward
            return change(layer, site.value.name, users, ordinal), site.host, name
    name = _free_name(followed, edit, site.role, names[followed])
    behind(survey, followed, (name,))
    names[followed].add(name)
    return AppendBehind(layer), followed, name


def in_turns(
    survey: Survey,
    site: Site,
    ordinal: int,
    edit: Insert,
    layer: AttentionLayer,
    names: Mapping[nn.Module, set[str]],
) -> tuple[Insertion, nn.Module, str] | None:
    """The last route: a layer for each turn of the loop in which the site is. None where that is not to be tried."""
    if is_chain(site.host) or isinstance(site.host, GraphModule):
        return None
    users = tuple(user.name for user in site.users)
    name = _free_name(site.host, edit, site.role, names[site.host])
    if not waits_for_turns(survey, site.host, LayerCall(name, site.value.name, users)):
        return None
    names[site.host].add(name)
    return RewriteForward(layer, site.value.name, users, ordinal), site.host, name


def _elsewhere(survey: Survey, site: Site) -> Site | None:
    """The same activation where its host is called, or else behind the factor that is all it goes to.

    What is made one way in training and another way in eval mode may meet there only.
    """
    outer, users = _in_authors_code(survey, _outer(survey, site)), list(site.value.users)
    if outer is not None or len(users) != 1 or not is_scaling(users[0]) or _only_child(survey, site):
        return outer
    return replace(site, value=users[0], users=())


def _outer(survey: Survey, site: Site) -> Site | None:
    """The same activation where the host is called, if it is all that the host returns and the one call of it."""
    users = site.users or tuple(site.value.users)
    caller = survey.callers.get(site.host)
    whole = [user.op for user in users] == ["output"] and users[0].args[0] is site.value
    if caller is None or not whole or not _in_one_place(survey, site.host):
        return None
    return replace(site, host=caller[0], value=caller[2], users=())


def _later(survey: Survey, site: Site, followed: nn.Module) -> Site | None:
    """The same activation in an author's code, where Sequentials give it and their last layer may be fused away."""
    return _in_authors_code(survey, site) if is_conv(followed) or is_norm(followed) else None


def _in_authors_code(survey: Survey, site: Site | None) -> Site | None:
    """The same activation where the code of no Sequential has it."""
    while site is not None and is_chain(site.host):
        site = _outer(survey, site)
    return site


def _followed(survey: Survey, site: Site) -> nn.Module | None:
    """The layer behind which the new one goes, where the forward of the host had better stay as it is."""
    chain = is_chain(site.host)
    if chain and site.value.op != "call_module":
        raise Unfit("a Sequential has no place before its first child; operate on the module that calls it")
    if not chain:
        return None
    layer = _last_layer_of(site)
    if not _called_here_alone(survey, site, layer):
        raise Unfit(f"the {type(layer).__name__} it would follow is used in several places")
    return layer


def _only_child(survey: Survey, site: Site) -> bool:
    """Whether a site is all that a child gives, in the one place where the child is: then a node can go behind it."""
    if site.value.op != "call_module" or not set(site.value.users) <= set(site.users or site.value.users):
        return False
    child = _last_layer_of(site)
    return (has_own_forward(child) or not list(child.children())) and _called_here_alone(survey, site, child)


def _last_layer_of(site: Site) -> nn.Module:
    """The layer that gives the site's value, which a child of the host gives."""
    return last_layer(site.host.get_submodule(str(site.value.target)))


def _in_one_place(survey: Survey, module: nn.Module) -> bool:
    return len(survey.mounts[module]) == 1 and survey.probe.calls.get(module, 0) <= 1


def _called_here_alone(survey: Survey, site: Site, module: nn.Module) -> bool:
    """Whether a child is in one place, and all its calls are those of one host: one, or each turn of a loop.

    In a loop the layer that the site is about must be called in each turn, too: one layer for all of them.
    """
    traced = survey.trace(site.host)
    nodes = () if traced is None else traced.graph.nodes
    turns = sum(node.op == "call_module" and node.target == site.value.target for node in nodes)
    calls, layer = survey.probe.calls, None if site.layer is None else site.layer.module
    if turns > 1 and (layer is None or calls.get(layer) != calls.get(module)):
        return False
    return len(survey.mounts[module]) == 1 and calls.get(module, 0) == turns * calls.get(site.host, 0)


def _has(host: nn.Module, name: str) -> bool:
    """Whether a module has an attribute, whatever a ``__getattr__`` of its own answers for other names."""
    tables = (host.__dict__, host._modules, host._parameters, host._buffers)
    return hasattr(type(host), name) or any(name in table for table in tables)


def possible_paths(survey: Survey, site: Site, ordinal: int, edit: Insert | Replace) -> tuple[str, ...]:
    """The paths that the layer at a site may get: by them, too, ``where: {path: ...}`` knows the site."""
    wanted = edit.name or attention.child_name(edit.module or "")
    names = [wanted] if ordinal == 0 else [f"{wanted}_{ordinal + 1}"]
    names += [f"{wanted}_{site.role}"] if site.role and site.role != "branch" else []
    empty = [name for name, child in site.host._modules.items() if child is None or type(child) is nn.Identity]
    around = survey.paths[site.host]
    paths = [join(around, name) for name in (*names, *empty)]
    if site.value.op == "call_module":
        paths.append(join(join(around, str(site.value.target)), wanted))
    return tuple(paths)


def _free_name(host: nn.Module, edit: Insert, role: str, names: set[str]) -> str:
    wanted = edit.name or attention.child_name(edit.module)

    def free(name: str) -> bool:
        return name not in names and not _has(host, name)

    if free(wanted):
        return wanted
    if edit.name is not None and hasattr(host, wanted) and wanted not in names:
        raise Unfit(f'its {type(host).__name__} already has an attribute "{wanted}"; choose another name')
    if role and role != "branch" and free(f"{wanted}_{role}"):
        return f"{wanted}_{role}"
    return next(name for number in itertools.count(2) if free(name := f"{wanted}_{number}"))


def last_layer(module: nn.Module) -> nn.Module:
    """The layer whose output is a Sequential's output, however deep."""
    while is_chain(module) and len(module._modules):
        module = list(module.children())[-1]
    return module
