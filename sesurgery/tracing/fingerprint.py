"""What a plan remembers of a host: a digest of what its forward does and of the layers it does it with."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from sesurgery.tracing.survey import Survey
from sesurgery.words.text import told_anywhere


def fingerprint(survey: Survey, host: nn.Module) -> str:
    """Digest of a host's class, the operations of its forward and its children, their widths included."""
    key = ("fingerprint", host)
    if key not in survey.memo:
        children = ",".join(f"{name}:{_layer(child)}" for name, child in host.named_children())
        text = f"{forward_kind(survey, host)}|{children}"
        survey.memo[key] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return survey.memo[key]


def forward_kind(survey: Survey, host: nn.Module) -> str:
    """The class of a host and the operations of its forward: equal for blocks that differ in their sizes only."""
    key = ("kind", host)
    if key not in survey.memo:
        traced = survey.trace(host)
        lines = [] if traced is None else operations(traced.graph)
        children = ",".join(f"{name}:{type(child).__name__}" for name, child in host.named_children())
        survey.memo[key] = "\n".join([type(host).__name__, *lines, children])
    return survey.memo[key]


def operations(graph: Graph) -> list[str]:
    """A graph in lines, one an operation, without the numbers that go with the size of the input."""
    return [f"{node.name} = {node.op} {_target(node)} {_inputs(node)}" for node in graph.nodes]


def _target(node: Node) -> str:
    return (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", None) or told_anywhere(node.target)
    )


def _inputs(node: Node) -> Any:
    return " ".join(source.name for source in node.all_input_nodes)


def _layer(child: nn.Module) -> str:
    return type(child).__name__ if any(True for _ in child.children()) else told_anywhere(child)
