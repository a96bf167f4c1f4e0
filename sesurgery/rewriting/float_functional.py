"""Sums and products that a host leaves to a child (torch.ao's FloatFunctional) stay with it in generated code.

A trace goes through ``self.skip_add.add(x, y)``, as through any method. Quantisation, eager or FX, puts another class
in the child's place, which knows the methods and nothing of what is behind them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import Graph, Node

_METHODS = {torch.add: "add", torch.mul: "mul", torch.cat: "cat", torch.matmul: "matmul"}
_OBSERVER = ".activation_post_process"


def restore_functionals(graph: Graph, host: nn.Module) -> None:
    """Write what a FloatFunctional of ``host`` did as a call of its method, in place of what the trace found in it.

    A node that has been put between the sum and its observer comes behind both.
    """
    for observer in list(graph.nodes):
        holder = _holder(observer, host)
        if holder is None:
            continue
        made, between = _origin(observer)
        method = _METHODS.get(made.target) if made is not None else None  # type: ignore[arg-type]
        if made is None or method is None:
            continue
        fused = [node.target for node in between] == [nn.functional.relu]
        with graph.inserting_before(made):
            child = graph.create_node("get_attr", holder)
            call = graph.call_method(method + "_relu" * fused, (child, *made.args), dict(made.kwargs))
        call.meta = dict(made.meta)
        made.replace_all_uses_with(call)
        observer.replace_all_uses_with(call if fused else observer.args[0])  # type: ignore[arg-type]
        for old in (observer, *(between if fused else ()), made):
            graph.erase_node(old)


def _holder(node: Node, host: nn.Module) -> str | None:
    """The path of the FloatFunctional of which ``node`` calls the observer."""
    target = str(node.target)
    if node.op != "call_module" or not target.endswith(_OBSERVER):
        return None
    from torch.ao.nn.quantized import FloatFunctional  # takes long, and is there already where a host has one

    path = target.removesuffix(_OBSERVER)
    return path if isinstance(host.get_submodule(path), FloatFunctional) else None


def _origin(observer: Node) -> tuple[Node | None, list[Node]]:
    """The sum or product that led to an observer and nowhere else, and the steps between, the latest first."""
    between: list[Node] = []
    before = observer.args[0]
    while isinstance(before, Node) and len(before.users) == 1:
        if before.op == "call_function" and before.target is not nn.functional.relu:
            return before, between
        between.append(before)
        before = before.args[0] if before.args else None
    return None, between
