"""One module's forward as a torch.fx graph, its children left whole, every node with the value it had."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch.fx

# One forward is recorded at a time: a recorder answers the calls of every module that it watches.
LOCK = threading.RLock()


@dataclass(frozen=True)
class Trace:
    """A recorded call of a forward as a graph.

    Attributes:
        graph: of each node ``meta`` holds ``val`` (what it gave: tensors on ``meta``, labelled with their channel
            axis), ``place`` (in the author's source) and ``writes`` (nodes whose tensors it wrote into).
    """

    graph: torch.fx.Graph


def output_of(traced: Trace | None) -> torch.fx.Node | None:
    """The node that a forward returns; None where it returns several or none, or was not recorded."""
    if traced is None:
        return None
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return output if isinstance(output, torch.fx.Node) else None
