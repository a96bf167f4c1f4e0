"""A block before and after an operation, as two graphs in the language of graphviz; what changes is marked."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from sesurgery.api import RecipeLike, recipe_for, resolved
from sesurgery.drawing.graphviz import rendered
from sesurgery.errors import InputError, either, nearest
from sesurgery.operating.perform import perform
from sesurgery.planning.operation import drafted, rehearse
from sesurgery.planning.planner import Draft, Progress
from sesurgery.plans import Edit
from sesurgery.tracing.meta_copy import twin_of
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import outwards

_NEW = 'fillcolor="#b7ebc6", color="#1a7f37", penwidth=2'
_GONE = 'fillcolor="#ffd7d5", color="#cf222e", style="filled,dashed"'
_HEAD = """\
digraph block {
  graph [bgcolor=white, fontname="Helvetica", fontsize=13, nodesep=0.25, ranksep=0.28, pad=0.2];
  node [shape=box, style=filled, fillcolor="#f6f8fa", color="#8c959f", fontname="Helvetica", fontsize=11, height=0.3];
  edge [color="#57606a", arrowsize=0.6, fontname="Helvetica", fontsize=9, fontcolor="#57606a"];
"""


def draw(
    model: str | nn.Module,
    recipe: RecipeLike,
    *,
    block: str | None = None,
    form: str = "svg",
    stages: str | int | None = None,
    module: str | None = None,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> bytes:
    """Draw one of the modules that ``apply`` would change, before and after, as graphs; the model stays as it is.

    The other arguments are those of :func:`sesurgery.plan`.

    Args:
        block: path of the module, such as ``layer4.0``; the first that changes where left out.
        form: ``svg``, ``png``, ``pdf``, or ``dot`` for graphviz's own language, which needs no graphviz.

    Returns:
        What a file of that form holds. What is new is green, what goes is red and dashed; edges bear shapes without
        the axis of samples.

    Raises:
        InputError: as ``plan``; nothing changes in ``block``; or graphviz is not installed.
    """
    wanted = recipe_for(recipe, stages, module, options)
    body, spec = resolved(model, model_args, "meta")
    draft = drafted(body, spec, wanted, example_input, input_size, progress)
    before = rehearse(body, spec, draft.example, None).survey
    operated = twin_of(before.twin if before.body is None else before.body)
    perform(operated, draft.actions)
    after = rehearse(operated, spec, draft.example, None).survey
    host = _host(before, after, draft, block)
    return rendered(_dot(before, after, host, draft), form)


def draw_forward(module: nn.Module, example_input: Any, *, title: str = "", form: str = "svg") -> bytes:
    """Draw the forward of one module as a graph.

    Args:
        example_input: a tensor, or a tuple of positional arguments.
        title: stands above it; the name of its class where left out.
        form: as of :func:`draw`.
    """
    seen = rehearse(module.eval(), None, example_input, None).survey
    side = _Side("forward", seen, "", {node.name for node in _graph(seen, "").nodes}, (), "")
    return rendered(_text([(side, title or type(module).__name__)]), form)


def _graph(seen: Survey, host: str) -> fx.Graph:
    trace = seen.trace(seen.by_path[host])
    assert trace is not None
    return trace.graph


def _host(before: Survey, after: Survey, draft: Draft, block: str | None) -> str:
    """The module to draw: one whose forward was recorded before and after."""
    edits = draft.plan.edits
    paths = list(dict.fromkeys(_drawn(before, after, edit) for edit in edits))
    if block is None:
        return paths[0]
    inside = [path for path in paths if path == block or path.startswith(f"{block}.")]
    if not inside:
        near = nearest(block, paths) or tuple(paths[:3])
        raise InputError(f'nothing changes in "{block}"', where="block", remedy=f"did you mean {either(near)}?")
    return inside[0]


def _drawn(before: Survey, after: Survey, edit: Edit) -> str:
    for path in outwards(edit.host):
        modules = [seen.by_path.get(path) for seen in (before, after)]
        if all(
            module is not None and seen.trace(module) for module, seen in zip(modules, (before, after), strict=True)
        ):
            return path
    return ""


@dataclass(frozen=True)
class _Side:
    """One of the two graphs.

    Attributes:
        other: names of the other graph's nodes: what is not among them is new, or goes.
        edited: paths of layers that are exchanged.
        mark: how what differs is drawn.
    """

    name: str
    seen: Survey
    host: str
    other: Collection[str]
    edited: Collection[str]
    mark: str

    def lines(self) -> Iterator[str]:
        """Nodes and edges, as statements."""
        for node in _graph(self.seen, self.host).nodes:
            path = f"{self.host}.{node.target}".strip(".")
            differs = node.name not in self.other or (node.op == "call_module" and path in self.edited)
            shape = "shape=oval, " if node.op in ("placeholder", "output") else ""
            mark = f", {self.mark}" if differs and node.op != "output" else ""
            yield f"{self._id(node)} [{shape}label={json.dumps(self._label(node), ensure_ascii=False)}{mark}];"
            for given in node.all_input_nodes:
                yield f"{self._id(given)} -> {self._id(node)} [label={json.dumps(_shape(given), ensure_ascii=False)}];"

    def _id(self, node: fx.Node) -> str:
        return json.dumps(f"{self.name} {node.name}")

    def _label(self, node: fx.Node) -> str:
        if node.op in ("placeholder", "output", "get_attr"):
            return str(node.target)
        if node.op == "call_module":
            layer = self.seen.by_path[self.host].get_submodule(str(node.target))
            return f"{node.target}\n{_in_short(layer)}"
        return str(getattr(node.target, "__name__", node.target)).rpartition(".")[2].strip("_")


def _dot(before: Survey, after: Survey, host: str, draft: Draft) -> str:
    names = [{node.name for node in _graph(seen, host).nodes} for seen in (before, after)]
    edited = {edit.path for edit in draft.plan.edits}  # a socket is filled under its own name
    sides = (
        _Side("before", before, host, names[1], edited, _GONE),
        _Side("after", after, host, names[0], edited, _NEW),
    )
    return _text((side, f"{host or type(after.twin).__name__}, {side.name}") for side in sides)


def _text(titled: Iterable[tuple[_Side, str]]) -> str:
    """Some graphs beside each other, in graphviz's own language."""
    return _HEAD + "\n".join(_clusters(titled)) + "\n}\n"


def _clusters(sides: Iterable[tuple[_Side, str]]) -> Iterator[str]:
    for side, title in sides:
        yield f'  subgraph "cluster {side.name}" {{ label={json.dumps(title)}; color="#d0d7de"; margin=26;'
        yield from (f"    {line}" for line in side.lines())
        yield "  }"


def _in_short(layer: nn.Module) -> str:
    """``Conv2d 64, 64, 3x3``, ``SEModule``."""
    kernel, widths = (
        getattr(layer, "kernel_size", None),
        (getattr(layer, "in_channels", None), getattr(layer, "out_channels", None)),
    )
    size = "x".join(map(str, kernel)) if isinstance(kernel, tuple) else ""
    words = [type(layer).__name__, " → ".join(str(width) for width in widths if width is not None), size]
    return " ".join(filter(None, words))


def _shape(node: fx.Node) -> str:
    """The shape that a node gives, where it is another than what it takes."""
    value, taken = node.meta.get("val"), [given.meta.get("val") for given in node.all_input_nodes[:1]]
    if (
        not isinstance(value, Tensor)
        or value.ndim < 2
        or any(getattr(one, "shape", None) == value.shape for one in taken)
    ):
        return ""
    return " x ".join(map(str, value.shape[1:]))
