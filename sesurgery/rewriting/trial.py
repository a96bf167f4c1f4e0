"""A host's edited methods are tried on the weightless copy before anything is planned with them."""

from __future__ import annotations

import contextlib
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.edited_class import become, edited_class, merged, original_class
from sesurgery.operating.graph_modules import LayerCall, insert_calls, remove_calls
from sesurgery.recording.author_places import reason_in_line
from sesurgery.recording.recorder import Frame, record_call, record_within
from sesurgery.rewriting.behind import methods_behind
from sesurgery.rewriting.graph_edits import Bypass, bypassed, calls_in
from sesurgery.rewriting.insertions import Trial, edited_methods_for, runs_the_same
from sesurgery.rewriting.other_methods import entrances, same_place
from sesurgery.rewriting.removals import methods_without
from sesurgery.rewriting.validation import absent, check, check_but_for, wrong_calls
from sesurgery.tracing.fingerprint import forward_kind
from sesurgery.tracing.same_structure import own_attributes
from sesurgery.tracing.survey import Survey

Methods = tuple[EditedMethod, ...]


class StandIn(nn.Module):
    """Stands where a layer is to be, to see where and how often it is called.

    Like a layer it holds a weight and gives new memory, and where gradients are kept, what has some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty((), device="meta"))

    def forward(self, x: Any) -> Any:
        return x + x.new_zeros(()).requires_grad_() if torch.is_grad_enabled() else x.clone()


@dataclass(frozen=True)
class Written:
    """Edited methods, and the other methods of the host that could not be edited likewise."""

    methods: Methods
    without: tuple[str, ...] = ()


def with_layers(
    survey: Survey, host: nn.Module, insertions: tuple[LayerCall, ...], sockets: tuple[str, ...] = ()
) -> Written:
    """The methods of a host that call layers where ``insertions`` say: tried in eval and in train mode.

    Args:
        sockets: empty places of the host that are filled by the same operation.

    Raises:
        Unfit: the author's text has no such place, or the host would do something else, with the lines.
    """
    turns = "planning" not in survey.memo or _mode(survey, host) == "turns"
    asked = (insertions, sockets, turns)
    return _remembered(survey, host, asked, lambda: _with_layers(survey, host, insertions, sockets, turns))


# How the edits of a host are tried while they are planned. All at once; each by itself; each by itself, but those of a
# loop together; and each by itself again, where that cannot be.
_MODES = ("all", "each", "turns", "each, no turns")


def try_otherwise(survey: Survey, host: nn.Module) -> bool:
    """From now on the edits of the host are tried in the next way when they are planned; whether there is one."""
    mode = _mode(survey, host)
    survey.memo["mode", host] = _MODES[min(_MODES.index(mode) + 1, len(_MODES) - 1)]
    return mode in ("all", "turns")


def try_in_turns(survey: Survey) -> bool:
    """Whether hosts have sites in loops that were refused by themselves: from now on those are tried together."""
    hosts = [host for host in survey.memo.pop("loops", ()) if _mode(survey, host) == "each"]
    for host in hosts:
        survey.memo["mode", host] = "turns"
    return bool(hosts)


def waits_for_turns(survey: Survey, host: nn.Module, insertion: LayerCall) -> bool:
    """Whether an insertion, refused by itself, is to be tried with others of its loop; where it may be later, noted."""
    trace = survey.trace(host)
    node = None if trace is None else next(node for node in trace.graph.nodes if node.name == insertion.value)
    nodes = [] if node is None else [node, *node.users]
    if node is None or not any(
        runs_the_same(each, other) for each in nodes for other in node.graph.nodes if other is not each
    ):
        return False
    survey.memo.setdefault("loops", {})[host] = True
    return _mode(survey, host) == "turns"


def _mode(survey: Survey, host: nn.Module) -> str:
    return survey.memo.get(("mode", host), "all")


def tried(survey: Survey, host: nn.Module, insertion: LayerCall) -> None:
    """Try an insertion by itself, if those of its host are not to be tried all at once later. Raises ``Unfit``."""
    if _mode(survey, host) == "all":
        return
    if isinstance(host, GraphModule):
        in_graph(survey, host, (insertion,))
    else:
        with_layers(survey, host, (insertion,))


def in_graph(survey: Survey, host: GraphModule, insertions: tuple[LayerCall, ...]) -> tuple[LayerCall, ...]:
    """The calls to be put into the graphs of a host: tried in eval mode.

    Raises:
        Unfit: a graph has no such place, or the host would do something else.
    """
    return _remembered(survey, host, ("graph", insertions), lambda: _in_graph(survey, host, insertions))


def _in_graph(survey: Survey, host: GraphModule, insertions: tuple[LayerCall, ...]) -> tuple[LayerCall, ...]:
    bench = _Bench.of(survey, host)
    frame = survey.different_calls(host)[0]
    graph, _ = bench.as_it_was(frame)
    calls = calls_in(host, graph, insertions)
    names = [call.name for call in calls]
    with filled(host, names):
        try:
            insert_calls(host, calls)
            check(graph, bench.tried(frame), insertions)
        except KeyError as missing:
            raise Unfit(f"one of its graphs has no node {missing}") from None
        finally:
            remove_calls(host, names)
    return calls


def behind(
    survey: Survey, host: nn.Module, names: tuple[str, ...], methods: Methods = (), inside: tuple[str, ...] = ()
) -> Methods:
    """The methods of a module that hand all they return through layers: tried on its recorded calls.

    Args:
        methods: those that are edited already, in the same operation.
        inside: the layers that the same operation puts into the module, and that ``methods`` may call.

    Raises:
        Unfit: its text is not to be had, or a layer among its children would be called otherwise than once.
    """
    asked = (names, methods, inside)
    return _remembered(survey, host, asked, lambda: _behind(survey, host, names, methods, inside))


def without_gates(survey: Survey, host: nn.Module, bypasses: tuple[Bypass, ...]) -> Methods:
    """The methods of a host without some gates, tried in eval mode.

    Raises:
        Unfit: the gates cannot be taken out of the author's text, with the line.
    """
    return _remembered(survey, host, bypasses, lambda: _without_gates(survey, host, bypasses))


def _remembered(survey: Survey, host: nn.Module, asked: Any, answer: Callable[[], Any]) -> Any:
    """What was answered for an equal host before; a refusal is remembered too."""
    key = (_kind(survey, host), asked)
    if key not in survey.memo:
        try:
            survey.memo[key] = answer()
        except Unfit as refusal:
            survey.memo[key] = refusal
    if isinstance(survey.memo[key], Unfit):
        raise survey.memo[key]
    return survey.memo[key]


def _kind(survey: Survey, host: nn.Module) -> Any:
    """What hosts have in common that do the same in their own code, whatever the sizes of their children."""
    key = ("own code", host)
    if key not in survey.memo:
        attributes = own_attributes(host)
        calls = len(survey.different_calls(host))
        one_kind = None if attributes is None or calls != 1 else (attributes, forward_kind(survey, host), _ties(host))
        survey.memo[key] = host if one_kind is None else one_kind
    return survey.memo[key]


def _ties(host: nn.Module) -> tuple[int, ...]:
    """Which of the children are one module: for each the first place that holds it."""
    children = list(host._modules.values())
    return tuple(children.index(child) for child in children)


def _with_layers(
    survey: Survey, host: nn.Module, insertions: tuple[LayerCall, ...], sockets: tuple[str, ...], turns: bool
) -> Written:
    bench = _Bench.of(survey, host, sockets)
    frame = survey.different_calls(bench.twin)[0]
    with filled(bench.host, sockets):
        graph = bench.recorded(frame)
        settled = [_settled(bench.host, graph, insertion) for insertion in insertions]
        methods = edited_methods_for(type(bench.host), graph, settled, bench.try_out, turns)
        more, without = _in_other_methods(bench, frame, graph, settled, methods)
    return Written((*methods, *more), without)


def _asks_for_gradients(graph: Graph) -> bool:
    """Whether a forward does something with tensors that depends on where gradients come from."""
    return any(node.target in ("requires_grad_", "retain_grad", "register_hook", setattr) for node in graph.nodes)


def _settled(host: nn.Module, graph: Graph, insertion: LayerCall) -> LayerCall:
    """The insertion behind what only passes on or scales the value and belongs to the same expression.

    So it is in torch's FloatFunctional, and where a function of somebody else's scales what it returns.
    """
    node = _node_of(graph, insertion)
    value: Node = node
    while len(value.users) == 1 and value.meta.get("place") is not None:
        user = next(iter(value.users))
        if user.meta.get("place") != value.meta["place"] or user.all_input_nodes != [value]:
            break
        passes = user.op == "call_module" and isinstance(host.get_submodule(str(user.target)), nn.Identity)
        if not passes and user.target not in (operator.mul, operator.truediv, functional.dropout):
            break
        value = user
    return insertion if value is node else LayerCall(insertion.name, value.name)


def _node_of(graph: Graph, insertion: LayerCall) -> Node:
    node = next((node for node in graph.nodes if node.name == insertion.value), None)
    if node is None:
        raise Unfit("called again with the same arguments, its forward takes another way")
    return node


def _in_other_methods(
    bench: _Bench, frame: Frame, graph: Graph, insertions: Sequence[LayerCall], methods: Methods
) -> tuple[list[EditedMethod], tuple[str, ...]]:
    """The same edits in methods that may stand in for ``forward``, and the methods that they could not be made in."""
    more: list[EditedMethod] = []
    without: list[str] = []
    for name in entrances(bench.host, graph):
        try:
            more += _in_other_method(bench, frame, graph, insertions, (*methods, *more), name)
        except Unfit:
            without.append(name)
    return more, tuple(without)


def _in_other_method(
    bench: _Bench, frame: Frame, graph: Graph, insertions: Sequence[LayerCall], methods: Methods, name: str
) -> Methods:
    host = bench.host
    with _forward_by(host, name):
        other = bench.tried(frame)
    moved = [same_place(insertion, graph, other) for insertion in insertions]
    chosen = [insertion for insertion in moved if insertion is not None]
    if len(chosen) < len(moved):
        raise Unfit(f"{name} has no such place")

    def trial(edited: Sequence[EditedMethod], tried: Sequence[LayerCall]) -> None:
        with filled(host, [each.name for each in tried]), _as(host, (*methods, *edited)), _forward_by(host, name):
            check(other, bench.tried(frame), tried)
        if edited:  # the forward may call the method that was edited, or a part of it, and has its layers already
            bench.try_out((*methods, *edited), insertions)

    return _unless_there(type(host), other, chosen, trial, {each.attribute for each in methods})


def _unless_there(
    kind: type[nn.Module], graph: Graph, insertions: Sequence[LayerCall], trial: Trial, edited: set[str]
) -> Methods:
    """The methods that call the layers; none where they are called already, for the method shares what was edited."""
    try:
        trial((), insertions)
        return ()
    except Unfit:
        methods = edited_methods_for(kind, graph, insertions, trial)
        if any(method.attribute in edited for method in methods):
            raise Unfit("it shares a part with the forward that is to differ") from None
        return methods


def _behind(
    survey: Survey, host: nn.Module, names: tuple[str, ...], methods: Methods, inside: tuple[str, ...]
) -> Methods:
    trace = survey.trace(host)
    others = () if trace is None else entrances(host, trace.graph)
    kind = edited_class(original_class(type(host)), methods) if methods else type(host)
    methods = merged(kind, methods_behind(kind, names, others))
    bench = _Bench.of(survey, host)
    with filled(bench.host, (*inside, *names)), _as(bench.host, methods):
        for frame in survey.different_calls(host):
            calls = Counter(child.module for child in bench.called(frame).children)
            for name in names:
                layer = bench.host.get_submodule(name)
                if calls[layer] != 1:
                    raise Unfit(f"its forward would call self.{name} {calls[layer]} times")
    return methods


def _without_gates(survey: Survey, host: nn.Module, bypasses: tuple[Bypass, ...]) -> Methods:
    bench = _Bench.of(survey, host)
    frame, *others = survey.different_calls(host)
    if others:
        raise Unfit("its forward is called in several ways, and the gate is not the same in each")
    graph, _ = bench.as_it_was(frame)
    methods = methods_without(type(bench.host), graph, bypasses)
    names = [bypass.name for bypass in bypasses if bypass.name is not None]
    with filled(bench.host, names), _as(bench.host, methods):
        check(bypassed(graph, bypasses), bench.tried(frame), ())
        with training(bench.host):
            bench.tried(frame)
    return methods


@dataclass(frozen=True)
class _Bench:
    """A host that can be run on its recorded calls.

    Attributes:
        twin: the host of the weightless copy.
        host: the one to be run: the same, or where its code looks at values that of the copy with numbers.
        survey: whose copies they belong to.
        sockets: its empty places that are filled by the same operation.
        whole: the model to be run as a whole, where the host does not run on its own.
    """

    twin: nn.Module
    host: nn.Module
    survey: Survey
    sockets: tuple[str, ...] = ()
    whole: nn.Module | None = None

    @classmethod
    def of(cls, survey: Survey, host: nn.Module, sockets: tuple[str, ...] = ()) -> _Bench:
        """A bench on which the host runs as it is. Raises ``Unfit`` where there is none."""
        calls = survey.different_calls(host)
        if not calls:
            raise Unfit("its forward is never called")
        if survey.body is not None or survey.hooked:
            try:
                record_call(host, calls[0])
            except Exception:  # its code looks at values, or at what hooks on its children's layers picked up
                whole = survey.twin if survey.body is None else survey.body
                return cls(host, whole.get_submodule(survey.paths[host]), survey, sockets, whole)
        return cls(host, host, survey, sockets)

    def recorded(self, frame: Frame) -> Graph:
        """What the host did when the model was run, in eval mode; with its sockets filled, what it does then."""
        return self.as_it_was(frame)[0] if self.sockets or frame.graph is None else frame.graph

    def as_it_was(self, frame: Frame) -> tuple[Graph, Graph | None]:
        """What the host does without a change, in eval and in train mode, recorded as its edited methods will be."""
        key = ("as it was", self.twin, id(frame), self.sockets)
        if key not in self.survey.memo:
            self.survey.memo[key] = (self.tried(frame), self.trained(frame))
        return self.survey.memo[key]

    def try_out(self, methods: Sequence[EditedMethod], insertions: Sequence[LayerCall]) -> None:
        """Raise ``Unfit`` unless with ``methods`` the host does what it did and what ``insertions`` say.

        Each of its recorded calls is tried, in eval and in train mode. What it did when the model was run serves for
        both, as long as it does the same in both: then nothing has to be recorded but the host as edited.
        """
        names = [insertion.name for insertion in insertions]
        wrong = self.survey.memo.get(key := ("wrong", self.twin, self.sockets, tuple(methods), tuple(names)))
        if wrong is not None:
            raise Unfit(wrong)  # another of its sites has the same place in the text, as in a loop
        kind = edited_class(original_class(type(self.host)), merged(type(self.host), methods))
        first: Graph | None = None
        for frame in self.survey.different_calls(self.twin):
            chosen = insertions if first is None else None
            first = first or self.recorded(frame)
            elsewhere = absent(first, self.recorded(frame), insertions) if chosen is None else frozenset[str]()
            with filled(self.host, names), _of_class(self.host, kind):
                done = self.tried(frame)
            if chosen is not None and (wrong := wrong_calls(done, names)) is not None:
                self.survey.memo[key] = wrong
                raise Unfit(wrong)
            before = self.recorded(frame)
            try:
                _fits(before, done, names, chosen, elsewhere)
            except Unfit:
                before, _ = self.as_it_was(frame)
                for insertion in chosen or ():
                    _node_of(before, insertion)
                _fits(before, done, names, chosen, elsewhere)
            if _asks_for_gradients(before):
                with filled(self.host, names), _of_class(self.host, kind):
                    check_but_for(before, self.tried(frame, gradients=True), names, elsewhere)
            self._try_while_training(frame, kind, names, chosen, elsewhere)

    def _try_while_training(
        self,
        frame: Frame,
        kind: type[nn.Module],
        names: Sequence[str],
        chosen: Sequence[LayerCall] | None,
        elsewhere: Set[str],
    ) -> None:
        try:
            with filled(self.host, names), _of_class(self.host, kind), training(self.host):
                done = self.tried(frame)
            _fits(self.recorded(frame), done, names, chosen, elsewhere)
        except Unfit:
            _, before = self.as_it_was(frame)
            if before is not None:
                with filled(self.host, names), _of_class(self.host, kind), training(self.host):
                    check_but_for(before, self.tried(frame), names, elsewhere)

    def called(self, frame: Frame, gradients: bool = False) -> Frame:
        """The call once more, on the host as it is now. Raises ``Unfit`` where it fails."""
        try:
            if self.whole is None:
                return record_call(self.host, frame, gradients)
            return record_within(self.whole, self.survey.args, self.host, gradients)
        except Exception as error:
            raise Unfit(f"its forward fails with a layer at that place: {reason_in_line(error)}") from None

    def tried(self, frame: Frame, gradients: bool = False) -> Graph:
        """What the host does now."""
        graph = self.called(frame, gradients).graph
        if graph is None:
            raise Unfit(f"the forward of {type(self.host).__name__} is torch's own")
        return graph

    def trained(self, frame: Frame) -> Graph | None:
        """What the host does while training; None where it cannot do that on its own."""
        with training(self.host):
            try:
                return self.tried(frame)
            except Unfit:
                return None


@contextlib.contextmanager
def filled(host: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """A host whose attributes of these names hold a stand-in for a while."""
    fields, children = dict(host.__dict__), dict(host._modules)
    try:
        for name in names:
            host.__dict__.pop(name, None)
            host._modules[name] = StandIn()
        yield
    finally:
        host.__dict__.update(fields)
        host._modules.clear()
        host._modules.update(children)


@contextlib.contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """A module in train mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.__dict__["training"] = True
        yield
    finally:
        for part, mode in modes:
            part.__dict__["training"] = mode


def _fits(
    before: Graph, after: Graph, names: Sequence[str], insertions: Sequence[LayerCall] | None, elsewhere: Set[str]
) -> None:
    """Raise ``Unfit`` unless ``after`` is ``before`` and calls the layers, where it is known where: there."""
    if insertions is None:
        check_but_for(before, after, names, elsewhere)
    else:
        check(before, after, insertions)


def _as(host: nn.Module, methods: Sequence[EditedMethod]) -> contextlib.AbstractContextManager[None]:
    """A host of the class that has the edited methods."""
    kind = type(host)
    return _of_class(host, edited_class(original_class(kind), merged(kind, methods)))


@contextlib.contextmanager
def _of_class(host: nn.Module, edited: type[nn.Module]) -> Iterator[None]:
    """A host of another class for a while."""
    kind, fields = type(host), dict(host.__dict__)
    become(host, edited)
    try:
        yield
    finally:
        object.__setattr__(host, "__class__", kind)
        host.__dict__.update(fields)


@contextlib.contextmanager
def _forward_by(host: nn.Module, name: str) -> Iterator[None]:
    """A host of which another method is called in place of ``forward``."""
    fields = dict(host.__dict__)
    try:
        host.__dict__["forward"] = getattr(host, name)
        yield
    finally:
        host.__dict__.clear()
        host.__dict__.update(fields)
