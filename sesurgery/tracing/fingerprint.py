"""The code of a host's forward, and a digest of it: by what a plan knows the model it was made for."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from torch import nn
from torch.fx import Graph

from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import Trace


def fingerprint(survey: Survey, host: nn.Module) -> str:
    """Digest of a host's forward, its children's classes and its class: what a plan relies on."""
    key = ("fingerprint", host)
    if key not in survey.memo:
        traced = survey.trace(host)
        children = ",".join(f"{name}:{type(child).__name__}" for name, child in host.named_children())
        forward = forward_text(survey, host) if isinstance(traced, Trace) else "untraced"
        text = f"{type(host).__name__}|{forward}|{children}"
        survey.memo[key] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return survey.memo[key]


def forward_text(survey: Survey, host: nn.Module) -> str:
    """The code of a traced host's forward."""
    traced = survey.trace(host)
    assert isinstance(traced, Trace)
    key = ("text", _shape(traced.graph))
    if key not in survey.memo:
        survey.memo[key] = code_text(traced.graph)
    return survey.memo[key]


def _shape(graph: Graph) -> tuple[Any, ...]:
    """What the code of a graph depends on; blocks that differ in their sizes only have it in common."""
    return tuple(
        (node.op, node.name, node.target, repr(node.args), repr(node.kwargs) if node.kwargs else "")
        for node in graph.nodes
    )


def code_text(graph: Graph) -> str:
    """A graph as people read code: no line that only frees memory."""
    source = graph.python_code("self").src
    lines = [re.sub(r";(  \w+ =)?.*= None$|\s+#.*$", "", line).rstrip() for line in source.splitlines()]
    return "\n".join(line for line in lines if line.strip() and not re.fullmatch(r"\s*\w+ = None", line))
