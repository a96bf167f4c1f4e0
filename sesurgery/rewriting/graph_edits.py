"""Edits of one host's graph: a gate taken out, and places in a GraphModule's own graph."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from sesurgery.errors import Unfit
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.recording.author_places import Place
from sesurgery.rewriting.author_source import Span, read_method


def copy_graph(graph: Graph) -> Graph:
    """A copy of a graph with the values of its nodes."""
    copied = Graph()
    places: dict[Node, Node] = {}
    output = copied.graph_copy(graph, places)
    copied.output(output)
    for old, new in places.items():
        new.meta = dict(old.meta)
    return copied


@dataclass(frozen=True)
class Bypass:
    """A gate to take out of a graph: users of ``product`` see ``gated``, or ``name``'s node of it, from now on."""

    product: str
    gated: str
    name: str | None = None


def bypassed(graph: Graph, bypasses: Sequence[Bypass]) -> Graph:
    """A copy of a graph without some gates and without all that only they needed."""
    copied = copy_graph(graph)
    nodes = {node.name: node for node in copied.nodes}
    order = {name: index for index, name in enumerate(nodes)}
    for bypass in sorted(bypasses, key=lambda bypass: -order[bypass.product]):  # a gate may gate another one's product
        product, gated = nodes[bypass.product], nodes[bypass.gated]
        instead = gated
        if bypass.name is not None:
            with copied.inserting_before(product):
                instead = copied.call_module(bypass.name, (gated,))
            instead.meta["val"] = gated.meta.get("val")
        product.replace_all_uses_with(instead)
        _erase(copied, product, gated)
    return copied


def _erase(graph: Graph, last: Node, keep: Node) -> None:
    pending = [last]
    while pending:
        node = pending.pop()
        if node.users or node is keep or node.op in ("placeholder", "output") or node not in graph.nodes:
            continue
        pending.extend(node.all_input_nodes)
        graph.erase_node(node)


def calls_in(host: GraphModule, record: Graph, insertions: Sequence[LayerCall]) -> tuple[LayerCall, ...]:
    """The insertions in terms of a GraphModule's own nodes. Raises ``Unfit``."""
    nodes = {node.name: node for node in record.nodes}

    def own(name: str) -> str:
        node = nodes[name]
        if node.op in ("placeholder", "output"):
            return str(node.target)
        place: Place | None = node.meta.get("place")
        span = None if place is None else place.span
        if place is None or span is None:
            raise Unfit("its graph has no node of that place")
        syntax = read_method(type(host), place.code).syntax
        at = syntax.expression_at(Span(*span))
        statement = None if at is None else syntax.statement_of(at)
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise Unfit(f"{place} is no node of its graph")
        return statement.targets[0].id

    return tuple(LayerCall(each.name, own(each.value), tuple(map(own, each.users))) for each in insertions)
