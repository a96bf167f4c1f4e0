"""From places in a host's graph to edits of its author's text: which expression has to be wrapped.

For each insertion there are ways to write it, the plainest first. Which of them does what is wanted is not argued but
tried: the host is recorded with the edited methods, and the record is compared (see ``validation``).
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.recording.author_places import Place
from sesurgery.rewriting.author_source import Method, Span, encloses, read_method, returned, span_of
from sesurgery.rewriting.behind import forward_of
from sesurgery.rewriting.source_edits import Ahead, Edit, Entry, Exit, Part, Share, Turns, Wrap, edited

# Raises Unfit unless the host, with these methods, does what the insertions say.
Trial = Callable[[Sequence[EditedMethod], Sequence[LayerCall]], None]
Placed = tuple[Method, Edit]


def edited_methods_for(
    kind: type[nn.Module], graph: Graph, insertions: Sequence[LayerCall], trial: Trial, in_turns: bool = False
) -> tuple[EditedMethod, ...]:
    """The methods of ``kind`` with calls of the layers where ``insertions`` say.

    Args:
        kind: the author's class of the host.
        graph: the host's recorded call.
        insertions: what is to be called where.
        trial: tries edited methods out.
        in_turns: whether an expression in a loop may go through another layer in each turn.

    Raises:
        Unfit: there is no such expression in the author's text, or a call there would do something else.
    """
    writer = Writer(kind, graph)
    ways = [list(itertools.islice(writer.ways(insertion), 4)) for insertion in insertions]
    for insertion, options in zip(insertions, ways, strict=True):
        if not options:
            raise Unfit(writer.reason or f"no expression of its forward is what self.{insertion.name} is to take")
    first = [options[0] for options in ways]
    if not _share_a_place(first, insertions):
        try:
            return _tried(first, insertions, trial)
        except Unfit:
            if len(insertions) == 1 and len(ways[0]) == 1:
                raise
    for skipped in (0, 1) if in_turns else ():  # a condition may leave the first turn out
        with contextlib.suppress(Unfit):
            return _tried(_by_turns(writer, first, insertions, skipped), insertions, trial)
    chosen: list[list[Placed]] = []
    for index, options in enumerate(ways):
        chosen.append(_first_that_holds(chosen, options, insertions[: index + 1], trial))
    return _methods(chosen)


def _share_a_place(chosen: Sequence[list[Placed]], insertions: Sequence[LayerCall]) -> bool:
    """Whether two activations are one expression's, as in a loop, where each layer would be called for both."""
    values: dict[Any, str] = {}
    for placed, insertion in zip(chosen, insertions, strict=True):
        for method, edit in placed:
            place = id(method), replace(edit, name="")
            if values.setdefault(place, insertion.value) != insertion.value:
                return True
    return False


def _by_turns(
    writer: Writer, chosen: Sequence[list[Placed]], insertions: Sequence[LayerCall], skipped: int
) -> list[list[Placed]]:
    """What is chosen, where the layers of one expression in a loop are called in turns."""
    places: dict[Any, dict[int, str]] = {}
    methods: dict[int, Method] = {}
    rest: list[list[Placed]] = []
    for placed, insertion in zip(chosen, insertions, strict=True):
        method, edit = placed[0]
        if len(placed) > 1 or not isinstance(edit, Wrap):
            rest.append(placed)
            continue
        methods[id(method)] = method
        turn, turns = writer.turn(insertion, edit.span)
        if turns == 1:
            rest.append(placed)
        elif (
            places.setdefault((id(method), edit.span), {}).setdefault(turn + skipped, insertion.name) != insertion.name
        ):
            raise Unfit(f"self.{insertion.name} is not the only layer at its place")
    return rest + [[(methods[key], Turns(span, tuple(sorted(names.items()))))] for (key, span), names in places.items()]


def _first_that_holds(
    chosen: list[list[Placed]], options: list[list[Placed]], insertions: Sequence[LayerCall], trial: Trial
) -> list[Placed]:
    reason: Unfit | None = None
    for option in options:
        try:
            _tried([*chosen, option], insertions, trial)
        except Unfit as error:
            reason = reason or error
        else:
            return option
    assert reason is not None
    raise reason


def _tried(chosen: Sequence[list[Placed]], insertions: Sequence[LayerCall], trial: Trial) -> tuple[EditedMethod, ...]:
    methods = _methods(chosen)
    trial(methods, insertions)
    return methods


def _methods(chosen: Sequence[list[Placed]]) -> tuple[EditedMethod, ...]:
    edits: dict[Method, list[Edit]] = {}
    for method, edit in itertools.chain.from_iterable(chosen):
        edits.setdefault(method, []).append(edit)
    return tuple(edited(method, changes) for method, changes in edits.items())


class Writer:
    """Finds the ways to write an insertion into the methods of one class.

    Attributes:
        reason: why a text could not be read, if one could not.
    """

    def __init__(self, kind: type[nn.Module], graph: Graph) -> None:
        self.kind = kind
        self.nodes = {node.name: node for node in graph.nodes}
        self.methods: dict[int, Method | None] = {}
        self.reason = ""

    def ways(self, insertion: LayerCall) -> Iterator[list[Placed]]:
        """Edits that may do it, the plainest first."""
        value = self.nodes[insertion.value]
        users = [self.nodes[name] for name in insertion.users] or list(value.users)
        place: Place | None = value.meta.get("place")
        at_users = self._at_users(value, users, insertion.name)
        if set(value.users) <= set(users):
            if [user.op for user in users] == ["output"] and users[0].args[0] is value:
                yield from self._at_every_return(insertion.name)
            yield from self._at_entry(value, insertion.name)
            if place is not None and place.span is not None and (method := self.method(place)):
                if _is_conditional(method, Span(*place.span), users):
                    yield from at_users
                yield [(method, Wrap(Span(*place.span), insertion.name))]
        yield from at_users
        if [user.op for user in users] == ["output"]:
            yield from self._at_exit(users[0], value, insertion.name)

    def turn(self, insertion: LayerCall, span: Span) -> tuple[int, int]:
        """Which turn of its loop an insertion is in, and how many turns what stands at ``span`` has."""
        value = self.nodes[insertion.value]
        users = [self.nodes[name] for name in insertion.users] or list(value.users)
        place: Place | None = value.meta.get("place")
        anchor = value if (place is not None and place.span == span) or not users else users[0]
        turns = [node for node in self.nodes.values() if runs_the_same(node, anchor)]
        if not _each_its_own(turns):
            raise Unfit("its loop runs the same layers in each turn")
        return turns.index(anchor), len(turns)

    def method(self, place: Place) -> Method | None:
        """The method in which a place lies, read once."""
        if id(place.code) not in self.methods:
            try:
                read = read_method(self.kind, place.code)
            except Unfit as error:
                read, self.reason = None, str(error)
            same = next((other for other in self.methods.values() if other and read and _same(other, read)), None)
            self.methods[id(place.code)] = same or read
        return self.methods[id(place.code)]

    def forward(self) -> Method | None:
        """The forward itself."""
        try:
            read = forward_of(self.kind)
        except Unfit as error:
            self.reason = str(error)
            return None
        return self.method(Place(read.function.__code__, 0))

    def _at_every_return(self, name: str) -> Iterator[list[Placed]]:
        """All that the forward returns, where it has several ways to return one activation."""
        method = self.forward()
        values = [] if method is None else returned(method)
        if method is not None and len(values) > 1 and not any(isinstance(each, _DISPLAYS) for each in values):
            yield [(method, Wrap(span_of(value), name)) for value in values]

    def _at_entry(self, value: Node, name: str) -> Iterator[list[Placed]]:
        """A parameter, or one item of a list, tuple or dict that is one."""
        parameter, part = value, None
        if value.target is operator.getitem and value.meta.get("place") is None and isinstance(value.args[0], Node):
            parameter = value.args[0]
            part = _part(parameter.meta["val"], value.args[1])
            if part is None:
                return
        method = self.forward() if parameter.op == "placeholder" else None
        if method is not None:
            yield [(method, Entry(str(parameter.target), name, part))]

    def _at_exit(self, output: Node, value: Node, name: str) -> Iterator[list[Placed]]:
        """One item of the list, tuple or dict that the forward returns."""
        method = self.forward()
        for path in paths_to(output, value):
            part = _part(output.meta["val"], path[2]) if len(path) == 3 else None
            if method is not None and part is not None:
                yield [(method, Exit(part, name))]

    def _at_users(self, value: Node, users: Sequence[Node], name: str) -> Iterator[list[Placed]]:
        """The value wrapped where each of its users takes it."""
        options = [list(self._arguments(user, value)) for user in users]
        if not options or not all(options):
            return
        for choice in itertools.islice(itertools.product(*options), 4):
            methods = {id(method): method for method, _ in choice}
            spans = tuple(dict.fromkeys(span for _, span in choice))
            if len(methods) == 1:
                method = next(iter(methods.values()))
                yield [(method, Wrap(spans[0], name) if len(spans) == 1 else Share(spans, name))]
                if len(spans) == 1 < len(users):
                    yield [(method, Ahead(spans[0], name))]

    def _arguments(self, user: Node, value: Node) -> Iterator[tuple[Method, Span]]:
        """Expressions that may be what ``user`` takes as ``value``."""
        if user.op == "output":
            yield from self._returned(user, value)
            return
        place: Place | None = user.meta.get("place")
        method = None if place is None or place.span is None else self.method(place)
        if place is None or method is None:
            return
        span = Span(*place.span)  # type: ignore[misc]
        root = method.syntax.expression_at(span) or method.syntax.statement_at(span)
        if root is None:
            return
        for path in paths_to(user, value):
            node = argument_of(root, user, path)
            if node is not None:
                yield method, span_of(node)
            # A number may stand on either side: torch tells 2 * x from x * 2 to nobody.
            if isinstance(root, ast.BinOp) and not all(isinstance(each, Node) for each in user.args):
                yield method, span_of(root.right)

    def _returned(self, user: Node, value: Node) -> Iterator[tuple[Method, Span]]:
        method = self.forward()
        if method is None:
            return
        returns = [node for node in method.syntax.nodes if isinstance(node, ast.Return) and node.value is not None]
        body = [node.value for node in reversed(returns) if node.value is not None]
        if isinstance(method.node, ast.Lambda):
            body = [method.node.body]
        for path in paths_to(user, value):
            for expression in body:
                node = _inside(expression, path[2:])
                if node is not None:
                    yield method, span_of(node)


def _part(container: object, key: object) -> Part | None:
    """An item of a plain list, tuple or dict; of another class an expression would not make the like."""
    if type(container) in (list, tuple) and isinstance(key, int):
        return Part(type(container).__name__, key)
    return Part("dict", key) if isinstance(container, (dict, OrderedDict)) and isinstance(key, str) else None


_DISPLAYS = (ast.Tuple, ast.List, ast.Dict, ast.Constant)


def _is_conditional(method: Method, span: Span, users: Sequence[Node]) -> bool:
    """Whether a value is made on one of several ways only, behind which its users take what any of them made."""
    node = method.syntax.expression_at(span) or method.syntax.statement_at(span)
    places = [user.meta["place"] for user in users if user.meta.get("place") is not None]
    spans = [Span(*place.span) for place in places if place.span is not None]
    if node is None or not spans:
        return False
    branches = [around for _, around in method.syntax.ways_up(node) if isinstance(around, (ast.If, ast.Try, ast.Match))]
    return any(not all(encloses(span_of(branch), each) for each in spans) for branch in branches)


def runs_the_same(node: Node, other: Node) -> bool:
    """Whether two nodes are one operation of the author's text, which a loop does again."""
    place = node.meta.get("place")
    alike = node is other or (place is not None and place == other.meta.get("place"))
    return alike and node.op == other.op and (node.op == "call_module" or node.target == other.target)


def _each_its_own(turns: Sequence[Node]) -> bool:
    """Whether each turn of a loop runs layers or weights that no turn before it ran; a recurrence runs the same."""
    known: set[Node] = set()
    parts: set[str] = set()
    for turn in turns:
        pending, before = [turn], len(parts)
        while pending:
            node = pending.pop()
            if node not in known:
                known.add(node)
                pending.extend(node.all_input_nodes)
                if node.op in ("call_module", "get_attr"):
                    parts.add(str(node.target))
        if len(parts) == before and turn is not turns[0]:
            return False
    return True


def _same(one: Method, two: Method) -> bool:
    return one.function is two.function


def paths_to(user: Node, value: Node) -> Iterator[tuple[Any, ...]]:
    """Where in the arguments of ``user`` a value stands: ``("args", 0)``, ``("kwargs", "x")``, ``("args", 0, 1)``."""

    def search(item: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if item is value:
            yield path
        elif isinstance(item, (list, tuple)):
            for index, part in enumerate(item):
                yield from search(part, (*path, index))
        elif isinstance(item, dict):
            for key, part in item.items():
                yield from search(part, (*path, key))

    yield from search(user.args, ("args",))
    yield from search(user.kwargs, ("kwargs",))


def argument_of(root: ast.AST, user: Node, path: tuple[Any, ...]) -> ast.expr | None:
    """The expression at a path of the arguments of the call or operation ``root``."""
    kind, key, *rest = path
    operands: Sequence[ast.expr] = ()
    if isinstance(root, ast.Call):
        if kind == "kwargs":
            named = next((each.value for each in root.keywords if each.arg == key), None)
            return None if named is None else _inside(named, tuple(rest))
        operands = root.args
        given = len(user.args) + len(user.kwargs)
        if isinstance(root.func, ast.Attribute) and _is_method(user) and len(root.args) + len(root.keywords) < given:
            operands = [root.func.value, *root.args]  # a method of the tensor: y.add(x)
    elif isinstance(root, ast.BinOp):
        operands = [root.left, root.right]
    elif isinstance(root, ast.UnaryOp):
        operands = [root.operand]
    elif isinstance(root, ast.Subscript) or (isinstance(root, ast.Attribute) and user.target is getattr):
        operands = [root.value]
    elif isinstance(root, ast.AugAssign) and user.target is not operator.getitem:
        operands = [root.value] if key == 1 else []
        key = 0
    if kind != "args" or not isinstance(key, int) or key >= len(operands):
        return None
    return None if isinstance(operands[key], ast.Starred) else _inside(operands[key], tuple(rest))


def _is_method(user: Node) -> bool:
    """Whether a call may be one of the tensor's methods; functions of torch pass on defaults that nobody wrote."""
    return user.op == "call_method" or getattr(user.target, "__module__", "") == "_operator"


def _inside(node: ast.expr, path: Sequence[Any]) -> ast.expr | None:
    """The part of a list, tuple or dict display at ``path``."""
    for key in path:
        if isinstance(node, (ast.List, ast.Tuple)) and isinstance(key, int) and key < len(node.elts):
            node = node.elts[key]
        elif isinstance(node, ast.Dict):
            keys = [each.value if isinstance(each, ast.Constant) else None for each in node.keys]
            if key not in keys:
                return None
            node = node.values[keys.index(key)]
        else:
            return None
    return node
