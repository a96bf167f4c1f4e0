"""A gate that is written out in a forward leaves the author's text: the product, and what only fed it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from torch import nn
from torch.fx import Graph, Node

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.recording.author_places import Place
from sesurgery.rewriting.author_source import Method, Span, encloses, span_of
from sesurgery.rewriting.graph_edits import Bypass, bypassed
from sesurgery.rewriting.insertions import Writer, argument_of, paths_to
from sesurgery.rewriting.source_edits import Delete, Edit, InPlaceOf, Keep, Wrap, edited


def methods_without(kind: type[nn.Module], graph: Graph, bypasses: Sequence[Bypass]) -> tuple[EditedMethod, ...]:
    """The methods of ``kind`` without the gates, or with the layers that take their places.

    Args:
        kind: the author's class of the host.
        graph: the host's recorded call.
        bypasses: the gates, in that graph.

    Raises:
        Unfit: a gate is not written as one product, or what fed it cannot be told from the rest.
    """
    writer = Writer(kind, graph)
    edits: dict[Method, list[Edit]] = {}
    for bypass in bypasses:
        method, changes = _product(writer, bypass)
        edits.setdefault(method, []).extend(changes)
    left = {node.name for node in bypassed(graph, bypasses).nodes}
    dead = [node for node in graph.nodes if node.name not in left and node.op != "placeholder"]
    own = {(id(method), edit.span) for method, changes in edits.items() for edit in changes if isinstance(edit, _GONE)}
    for method, statement in _feeders(writer, dead, own):
        deletion = Delete(span_of(statement))
        if deletion not in edits.setdefault(method, []):
            edits[method].append(deletion)
    return tuple(edited(method, changes) for method, changes in edits.items())


_GONE = (Keep, Delete, InPlaceOf)


def _restates(method: Method, root: ast.expr, part: ast.expr) -> bool:
    """Whether nothing would be left of ``y = y * gate`` but ``y = y``."""
    around = method.syntax.around[root]
    if not isinstance(around, ast.Assign) or len(around.targets) != 1:
        return False
    return method.source(span_of(around.targets[0])) == method.source(span_of(part))


def _product(writer: Writer, bypass: Bypass) -> tuple[Method, list[Edit]]:
    """The edits that leave of a product what it gates."""
    node, gated = writer.nodes[bypass.product], writer.nodes[bypass.gated]
    place: Place | None = node.meta.get("place")
    method = None if place is None or place.span is None else writer.method(place)
    if place is None or place.span is None or method is None:
        raise Unfit(writer.reason or "the product stands in no method of its class")
    span = Span(*place.span)
    statement = method.syntax.statement_at(span)
    if isinstance(statement, ast.AugAssign):
        if bypass.name is None:
            return method, [Delete(span)]
        return method, [InPlaceOf(span, bypass.name)]
    root = method.syntax.expression_at(span)
    parts = [] if root is None else [argument_of(root, node, path) for path in paths_to(node, gated)]
    part = next((part for part in parts if part is not None), None)
    if root is None or part is None:
        raise Unfit(f"{place}: the product is not written as one")
    if bypass.name is None and _restates(method, root, part):
        return method, [Delete(span_of(method.syntax.around[root]))]
    changes: list[Edit] = [Keep(span_of(root), span_of(part))]
    if bypass.name is not None:
        changes.append(Wrap(span_of(root), bypass.name))
    return method, changes


def _feeders(
    writer: Writer, dead: Sequence[Node], products: set[tuple[int, Span]]
) -> Iterator[tuple[Method, ast.stmt]]:
    """The simple assignments that do nothing else than to feed what is gone."""
    gone = {node.name for node in dead}
    alive = [place for node in writer.nodes.values() if node.name not in gone and (place := _place(node)) is not None]
    for node in dead:
        place = _place(node)
        if place is None:
            continue
        method, span = writer.method(place), Span(*place.span)  # type: ignore[misc]
        if method is None:
            raise Unfit(f"{place}: it would stay, though only the gate needs it: {writer.reason}")
        if any(known == id(method) and encloses(product, span) for known, product in products):
            continue
        statement = _assignment(method, span)
        if statement is None:
            raise Unfit(f"{place} feeds the gate, and is no assignment that could go")
        whole = span_of(statement)
        if any(writer.method(each) is method and encloses(whole, Span(*each.span)) for each in alive):  # type: ignore[misc]
            raise Unfit(f"{place} feeds the gate and does something else as well")
        _refuse_other_readers(method, statement, products, dead)
        yield method, statement


def _refuse_other_readers(
    method: Method, statement: ast.stmt, products: set[tuple[int, Span]], dead: Sequence[Node]
) -> None:
    """Raise ``Unfit`` where somebody else reads what a statement sets, before it is set again."""
    names = [node for node in method.syntax.nodes if isinstance(node, ast.Name)]
    end = span_of(statement)[2:]
    for target in (node for node in ast.walk(statement) if isinstance(node, ast.Name)):
        if isinstance(target.ctx, ast.Load):
            continue
        later = [node for node in names if node.id == target.id and span_of(node)[:2] > end]
        again = min((span_of(node)[:2] for node in later if isinstance(node.ctx, ast.Store)), default=(1 << 30, 0))
        for node in later:
            if (
                isinstance(node.ctx, ast.Load)
                and span_of(node)[0] <= again[0]
                and not _goes(method, node, products, dead)
            ):
                line = f"line {node.lineno} of {method.filename.rpartition('/')[2]}"
                raise Unfit(f"{line} reads what feeds the gate, and would stay")


def _goes(method: Method, node: ast.expr, products: set[tuple[int, Span]], dead: Sequence[Node]) -> bool:
    gone = [span for known, span in products if known == id(method)]
    for each in dead:
        place = _place(each)
        feeder = None if place is None else _assignment(method, Span(*place.span))  # type: ignore[misc]
        if feeder is not None:
            gone.append(span_of(feeder))
    return any(encloses(span, span_of(node)) for span in gone)


def _place(node: Node) -> Place | None:
    place: Place | None = node.meta.get("place")
    return None if place is None or place.span is None else place


def _assignment(method: Method, span: Span) -> ast.stmt | None:
    """The assignment around a place."""
    expression = method.syntax.expression_at(span) or method.syntax.statement_at(span)
    statement = None if expression is None else method.syntax.statement_of(expression)
    if isinstance(expression, ast.stmt):
        statement = expression
    return statement if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)) else None
