"""Layers in the graph of a ``torch.fx.GraphModule``, which makes its forward anew from it at every ``recompile``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer that a host is to make, in terms of a graph: the recorded one, or a GraphModule's own.

    Attributes:
        name: attribute of the host that holds the layer.
        value: name of the graph's node whose activation it takes.
        users: names of the nodes that take its output instead; every user where empty.
    """

    name: str
    value: str
    users: tuple[str, ...] = ()


def insert_calls(module: GraphModule, calls: Sequence[LayerCall]) -> None:
    """Put the calls into every graph of ``module`` (torchvision's feature extractors keep one for each mode).

    Raises:
        KeyError: a graph has no such node.
    """
    for graph in graphs_of(module):
        nodes = {node.name: node for node in graph.nodes}
        for call in calls:
            _insert(graph, call, nodes)
    module.recompile()


def _insert(graph: Graph, call: LayerCall, nodes: dict[str, Node]) -> None:
    value = nodes[call.value]
    users = [nodes[name] for name in call.users] or list(value.users)
    after = [node for node in graph.nodes if node.op == "placeholder"][-1] if value.op == "placeholder" else value
    with graph.inserting_after(after):
        new = graph.call_module(call.name, (value,))
    for user in users:
        user.replace_input_with(value, new)


def remove_calls(module: GraphModule, names: Iterable[str]) -> None:
    """Take the calls of the layers of these names out again."""
    gone = set(names)
    for graph in graphs_of(module):
        for node in [node for node in graph.nodes if node.op == "call_module" and node.target in gone]:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    module.recompile()


def graphs_of(module: GraphModule) -> list[Graph]:
    """The different graphs that a module keeps."""
    graphs = {id(value): value for value in module.__dict__.values() if isinstance(value, Graph)}
    return list(graphs.values())
