"""Edits of one host's graph: a layer called at a site, a gate taken out."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from sesurgery.errors import Unfit
from sesurgery.operating.graph_modules import GraphCall
from sesurgery.recording.author_places import Place
from sesurgery.rewriting.author_source import Span, read_method
from sesurgery.rewriting.validation import Insertion


@dataclass(frozen=True)
class Cut:
    """A node to be put into a graph.

    Attributes:
        name: attribute of the host that will hold the node.
        value: name of the graph's node whose activation it takes.
        users: names of the nodes that take its output instead; every user where empty.
    """

    name: str
    value: str
    users: tuple[str, ...] = ()


def copy_graph(graph: Graph) -> Graph:
    """A copy of a graph with the values of its nodes."""
    copied = Graph()
    places: dict[Node, Node] = {}
    output = copied.graph_copy(graph, places)
    copied.output(output)
    for old, new in places.items():
        new.meta = dict(old.meta)
    return copied


def cut_graph(graph: Graph, cuts: Sequence[Cut]) -> Graph:
    """A copy of ``graph`` with a call of each cut's node put in. Raises ``KeyError`` where a name is not in it."""
    copied = copy_graph(graph)
    nodes = {node.name: node for node in copied.nodes}
    latest: dict[tuple[Node, Node], Node] = {}
    before = {name: list(node.users) for name, node in nodes.items()}
    for cut in cuts:
        value = nodes[cut.value]
        users = [nodes[name] for name in cut.users] or before[cut.value]
        sources = {latest.get((value, user), value) for user in users}
        if len(sources) > 1:
            raise Unfit("another rule has already parted the ways that this one would gate together")
        source = sources.pop() if sources else value
        with copied.inserting_after(_last_placeholder(copied) if source.op == "placeholder" else source):  # type: ignore[union-attr]
            node = copied.call_module(cut.name, (source,))
        node.meta["val"] = value.meta.get("val")
        for user in users:
            user.replace_input_with(source, node)
            latest[(value, user)] = node
    return copied


def _last_placeholder(graph: Graph) -> Node | None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return inputs[-1] if inputs else None


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


def calls_in(host: GraphModule, record: Graph, insertions: Sequence[Insertion]) -> tuple[GraphCall, ...]:
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

    return tuple(GraphCall(each.name, own(each.value), tuple(map(own, each.users))) for each in insertions)
