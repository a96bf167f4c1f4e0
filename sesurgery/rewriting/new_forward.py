"""From a host's trace and the cuts in it to the code of its new forward.

What the trace had to fix is made live again where that can be proved: each plain value that the forward read is
changed, the forward is traced once more, and the two graphs are compared. Where they differ only in that value, the
new forward reads it at run time; where a flag changes the way the forward goes, both ways are kept behind the flag;
what cannot be kept live is checked at run time, so that nothing is silently frozen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import Graph, Node

from sesurgery.errors import Unfit
from sesurgery.operating.operated_class import Code
from sesurgery.recording.recorder import Frame
from sesurgery.rewriting.float_functional import restore_functionals
from sesurgery.rewriting.graph_edits import _last_placeholder, cut_graph
from sesurgery.rewriting.live_values import Liveness, Path, liveness
from sesurgery.tracing.guards import expect
from sesurgery.tracing.trace import Failure, Trace, trace

# What is to change in a graph: cuts, or data of another kind that goes with a ``change`` of its own.
Changes = Sequence[Any]
# For a trace under other flags: the same changes, found anew in that graph.
Recut = Callable[[Trace], Changes]


def new_forward(
    frame: Frame,
    base: Trace,
    cuts: Changes,
    recut: Recut,
    change: Callable[[Graph, Changes], Graph] = cut_graph,
) -> Code:
    """The code of a host's forward with its cuts.

    Args:
        frame: the recorded call of the host.
        base: its trace.
        cuts: in the base trace.
        recut: finds the same cuts in a trace taken under other flags.
        change: makes the changed copy of a graph; puts nodes in where left out.

    Raises:
        Unfit: the host takes another way while training, and the site cannot be found there.
    """
    live = liveness(frame, base)
    flags = tuple(flag for flag, other in live.flags.items() if _can_follow(flag, other, recut, change))
    frozen = {flag: base.reads[flag] for flag in live.flags if flag not in flags}
    first = tuple(bool(base.reads[flag]) for flag in flags)
    bodies: dict[tuple[bool, ...], Graph] = {first: change(base.graph, cuts)}
    _make_live(bodies[first], replace(live, frozen={**live.frozen, **frozen}), frame)
    for choice in itertools.product((False, True), repeat=len(flags)):
        if choice not in bodies:
            overrides = dict(zip(flags, choice, strict=True))
            traced = _other_way(frame, base, live, overrides)
            bodies[choice] = change(traced.graph, recut(traced))
            again = liveness(frame, traced, overrides, skip=frozenset(live.flags))
            _make_live(bodies[choice], replace(again, frozen={**again.frozen, **frozen}), frame)
    for graph in bodies.values():
        restore_functionals(graph, frame.module)
    return _assembled(bodies, flags)


def _can_follow(flag: str, other: Trace, recut: Recut, change: Callable[[Graph, Changes], Graph]) -> bool:
    """Whether the cuts can be made on the other side of a flag too. Training mode must be followed."""
    try:
        change(other.graph, recut(other))
    except Unfit:
        if flag == "training":
            raise
        return False
    return True


def _other_way(frame: Frame, base: Trace, live: Liveness, overrides: Mapping[str, Any]) -> Trace:
    """The trace under other flags."""
    turned = [flag for flag, value in overrides.items() if value != base.reads[flag]]
    if len(turned) == 1:
        return live.flags[turned[0]]
    traced = trace(frame, overrides)
    if isinstance(traced, Failure):
        raise Unfit(f"with {_spoken(overrides)} its forward cannot be traced: {traced.reason}")
    return traced


def _make_live(graph: Graph, live: Liveness, frame: Frame) -> None:
    """Put run-time values and run-time checks into a graph of our own."""
    nodes = {node.name: node for node in graph.nodes}
    start = _last_placeholder(graph)
    kind = type(frame.module).__name__
    reads: dict[str, Node] = {}

    def read(name: str) -> Node:
        if name not in reads:
            with graph.inserting_after(start) if start is not None else graph.inserting_before(next(iter(graph.nodes))):
                reads[name] = graph.create_node("get_attr", name, (), {})
        return reads[name]

    for (name, place), (source, what) in live.places.items():
        value = read(what) if source == "attribute" else nodes[what]
        _replace(nodes[name], place, value)
    checks = [(read(name), value, f"{kind}.{name}") for name, value in live.frozen.items()]
    checks += [(nodes[name], value, f"{kind}.forward({name})") for name, value in live.bound.items()]
    first = next((node for node in graph.nodes if node.op not in ("placeholder", "get_attr")), None)
    for node, value, place in checks:
        with graph.inserting_before(first):
            graph.call_function(expect, (node, value, place))


def _replace(node: Node, place: Path, value: Node) -> None:
    def rebuilt(tree: Any, rest: Path) -> Any:
        if not rest:
            return value
        head, *tail = rest
        if isinstance(tree, dict):
            return {**tree, head: rebuilt(tree[head], tuple(tail))}
        items = [rebuilt(item, tuple(tail)) if index == head else item for index, item in enumerate(tree)]
        return type(tree)(items) if isinstance(tree, (list, tuple)) else items

    if place[0] == "args":
        node.args = tuple(rebuilt(list(node.args), place[1:]))
    else:
        node.kwargs = rebuilt(dict(node.kwargs), place[1:])


def _assembled(bodies: Mapping[tuple[bool, ...], Graph], flags: tuple[str, ...]) -> Code:
    sources: list[str] = []
    names: dict[str, Any] = {}
    for choice, graph in bodies.items():
        python = graph.python_code("self")
        names.update(python.globals)
        sources.append(python.src.strip("\n") if not flags else _renamed(python.src, _suffix(choice)))
    if not flags:
        return Code(sources[0] + "\n", names)
    header = next(line for line in sources[0].splitlines() if line.startswith("def "))
    arguments = _argument_names(next(iter(bodies.values())))
    lines = [re.sub(r"^def \w+", "def forward", header)]
    for choice in bodies:
        test = " and ".join(f"{'' if value else 'not '}self.{flag}" for flag, value in zip(flags, choice, strict=True))
        lines.append(f"    if {test}:\n        return forward_{_suffix(choice)}({', '.join(['self', *arguments])})")
    lines.append("    raise AssertionError('flags are true or false')")
    return Code("\n\n".join(sources) + "\n\n" + "\n".join(lines) + "\n", names)


def _suffix(choice: tuple[bool, ...]) -> str:
    return "".join("1" if value else "0" for value in choice)


def _renamed(source: str, suffix: str) -> str:
    return re.sub(r"^def forward", f"def forward_{suffix}", source.strip("\n"), flags=re.MULTILINE)


def _argument_names(graph: Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "placeholder"]


def _spoken(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in overrides.items())
