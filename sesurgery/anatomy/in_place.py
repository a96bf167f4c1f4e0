"""Layers that work in place: harmless behind a layer that made their input, not so once that layer is gone."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Set
from typing import Any

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.layer_kinds import activates, is_dropping
from sesurgery.errors import Unfit
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import output_of

_CHANGES = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
# A trace does not tell `x += y` from `x + y`; the text of the forward does.
_WRITTEN: dict[Any, str] = {operator.add: "+=", operator.sub: "-=", operator.mul: "*=", operator.truediv: "/="}


def check_in_place(survey: Survey, module: nn.Module, gone: Set[nn.Module] = frozenset()) -> None:
    """Raise ``Unfit`` where, without ``module`` and those of ``gone``, a layer would overwrite what others look at."""
    caller = survey.callers.get(module)
    if caller is None or not any(_kept(survey, caller[0], source, gone) for source in caller[2].all_input_nodes):
        return
    while caller is not None:
        host, _, node = caller
        follower = overwriting(host, node, gone)
        if follower is not None and follower.op != "output":
            raise Unfit("what follows it works in place, and would overwrite what other layers look at")
        caller = survey.callers.get(host) if follower is not None else None


def _kept(survey: Survey, host: nn.Module, source: Node, gone: Set[nn.Module]) -> bool:
    """Whether a value may have other readers: layers, callers, or the backward pass of the activation that made it."""
    if len(source.users) > 1:
        return True
    if source.op == "placeholder":
        caller = survey.callers.get(host)
        return caller is None or any(_kept(survey, caller[0], given, gone) for given in caller[2].all_input_nodes)
    if source.op == "call_module":
        child = host.get_submodule(str(source.target))
        result = output_of(survey.trace(child))
        if _passes(child, gone) or (result is not None and result.op == "placeholder"):
            return any(_kept(survey, host, before, gone) for before in source.all_input_nodes)
        if result is not None:
            return _kept(survey, child, result, gone)
    return activates(source, host.get_submodule)


def overwriting(host: nn.Module, node: Node, gone: Set[nn.Module] = frozenset()) -> Node | None:
    """The node that changes the value of ``node`` in place, or hands it out; None where there is neither."""
    out: Node | None = None
    for user in node.users:
        if user.op == "output":
            out = user
        elif user.op == "call_module" and _passes(host.get_submodule(str(user.target)), gone):
            writer = overwriting(host, user, gone)
            if writer is not None and writer.op != "output":
                return writer
            out = out or writer
        elif _in_place(host, user) and user.args and user.args[0] is node:
            return user
    return out


def _passes(module: nn.Module, gone: Set[nn.Module]) -> bool:
    return module in gone or (is_dropping(module) and not getattr(module, "inplace", False))


def _in_place(host: nn.Module, node: Node) -> bool:
    if node.op == "call_module":
        return any(
            bool(getattr(part, "inplace", False)) for part in _first_layers(host.get_submodule(str(node.target)))
        )
    if node.op == "call_method":
        return str(node.target).endswith("_")
    if node.target in _WRITTEN:
        return _WRITTEN[node.target] in _source(type(host))
    return node.target in _CHANGES or bool(node.kwargs.get("inplace", False))


@functools.lru_cache(maxsize=512)
def _source(kind: type[nn.Module]) -> str:
    """The text of a class's forward. Without one every sign is taken to be there."""
    try:
        return inspect.getsource(inspect.getattr_static(kind, "forward"))
    except (OSError, TypeError):
        return " ".join(_WRITTEN.values())


def _first_layers(module: nn.Module) -> list[nn.Module]:
    """The layer that a module hands its input to first, as far as that is known."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    return [module]
