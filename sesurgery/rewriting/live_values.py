"""Which plain values a forward depends on, and how: found by changing each and tracing once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from sesurgery.errors import Unfit
from sesurgery.recording.recorder import Frame
from sesurgery.tracing.trace import Case, Failure, Trace, trace_all

MOST_FLAGS = 2
Path = tuple[Any, ...]


@dataclass(frozen=True)
class Liveness:
    """What becomes of the plain values that a trace depends on.

    Attributes:
        places: read at run time: (node, place in its arguments) -> ("attribute" or "input", name).
        flags: change the way that the forward goes, with the trace of the other way.
        frozen: attributes to check at run time, with the value that holds.
        bound: arguments to check at run time, with the value that holds.
    """

    places: Mapping[tuple[str, Path], tuple[str, str]]
    flags: Mapping[str, Trace]
    frozen: Mapping[str, Any]
    bound: Mapping[str, Any]


def liveness(
    frame: Frame, base: Trace, overrides: Mapping[str, Any] | None = None, skip: frozenset[str] = frozenset()
) -> Liveness:
    """Change each plain value that a forward read, trace again, and compare.

    Raises:
        Unfit: the forward cannot be traced in training mode.
    """
    under = dict(overrides or {})
    reads = {
        name: value
        for name, value in base.reads.items()
        if name not in skip and value is not None and not isinstance(value, str)
    }
    changes = {name: _changed(value) for name, value in reads.items()}
    cases = [Case(frame, {**under, name: changed}) for name, changed in changes.items()]
    others = trace_all(cases + [Case(frame, under, frozenset((name,))) for name in base.bound])
    places: dict[tuple[str, Path], tuple[str, str]] = {}
    flags: dict[str, Trace] = {}
    frozen: dict[str, Any] = {
        name: value for name, value in base.reads.items() if isinstance(value, str) and name not in skip
    }
    idle_reads: dict[str, Any] = {}
    behind: dict[str, Any] = {}
    for (name, value), other in zip(reads.items(), others, strict=False):
        found = _against(base, other)
        if found is not None and all(_is(one, value) and _is(two, changes[name]) for _, one, two in found):
            places.update({place: ("attribute", name) for place, _, _ in found})
            if not found:
                idle_reads[name] = changes[name]
                behind.update(_read_besides(base, other))
        elif isinstance(value, bool) and not isinstance(other, Failure) and len(flags) < MOST_FLAGS:
            flags[name] = other
        elif name == "training":
            assert isinstance(other, Failure)
            raise Unfit(f"in training mode its forward cannot be traced: {other.reason}")
        else:
            frozen[name] = value
    bound, idle_arguments = _bound(base, others[len(reads) :], places, behind)
    attributes, arguments = _matter_together(frame, base, under, {**behind, **idle_reads}, idle_arguments)
    frozen.update({name: reads[name] for name in attributes if name in idle_reads})
    bound.update({name: base.bound[name] for name in arguments})
    return Liveness(places, flags, frozen, bound)


def _bound(
    base: Trace,
    others: Sequence[Trace | Failure],
    places: dict[tuple[str, Path], tuple[str, str]],
    behind: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """The defaults of arguments that have to be checked, and the names of those that make no difference."""
    bound: dict[str, Any] = {}
    idle: list[str] = []
    for (name, value), other in zip(base.bound.items(), others, strict=True):
        found = _against(base, other)
        if found is not None and all(_is(one, value) and isinstance(two, Node) for _, one, two in found):
            places.update({place: ("input", name) for place, _, _ in found})
            if not found:
                idle.append(name)
                behind.update(_read_besides(base, other))
        else:
            bound[name] = value
    return bound, idle


def _matter_together(
    frame: Frame, base: Trace, under: Mapping[str, Any], changes: Mapping[str, Any], arguments: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Of what makes no difference alone, that which does in company: a mask that is read only unless fused."""
    if len(changes) + len(arguments) < 2:
        return (), ()
    overrides = {**under, **changes}
    everything, attributes = trace_all([Case(frame, overrides, frozenset(arguments)), Case(frame, overrides)])
    if _against(base, everything) == []:
        return (), ()
    if _against(base, attributes) == []:
        return (), arguments
    return [name for name in changes if name != "training"], arguments


def _read_besides(base: Trace, other: Trace | Failure) -> dict[str, Any]:
    """What a forward reads only after a change, itself changed: ``training``, asked for behind another flag."""
    reads = {} if isinstance(other, Failure) else other.reads
    return {
        name: _changed(value)
        for name, value in reads.items()
        if name not in base.reads and isinstance(value, (bool, int, float))
    }


def _against(base: Trace, other: Trace | Failure) -> list[tuple[tuple[str, Path], Any, Any]] | None:
    return None if isinstance(other, Failure) else _differences(base.graph, other.graph)


def _changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value + 0.125 if value <= 0.5 else value - 0.125


def _is(one: Any, two: Any) -> bool:
    return type(one) is type(two) and one == two


def _differences(one: Graph, two: Graph) -> list[tuple[tuple[str, Path], Any, Any]] | None:
    """Where two graphs differ, if it is in constants only; None where their structure differs."""
    if len(one.nodes) != len(two.nodes):
        return None
    order = {node: index for graph in (one, two) for index, node in enumerate(graph.nodes)}
    found: list[tuple[tuple[str, Path], Any, Any]] = []

    def compare(a: Any, b: Any, place: Path, node: str) -> bool:
        if isinstance(a, Node) and isinstance(b, Node):
            return order[a] == order[b]
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(
                compare(x, y, (*place, i), node) for i, (x, y) in enumerate(zip(a, b, strict=True))
            )
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(compare(a[key], b[key], (*place, key), node) for key in a)
        if isinstance(a, slice) and isinstance(b, slice):
            return compare((a.start, a.stop, a.step), (b.start, b.stop, b.step), (*place, "slice"), node)
        if not _is(a, b):
            found.append(((node, place), a, b))
        return True

    for a, b in zip(one.nodes, two.nodes, strict=True):
        if a.op != b.op or (a.op != "placeholder" and a.target != b.target):
            return None
        if a.op == "placeholder":
            continue
        if not compare(a.args, b.args, ("args",), a.name) or not compare(a.kwargs, b.kwargs, ("kwargs",), a.name):
            return None
    if any("slice" in place for (_, place), _, _ in found):
        return None
    return found
