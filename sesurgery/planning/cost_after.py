"""What the operated model costs, counted on the weightless copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgery.edits.insert import INSERTED, node_cost
from sesurgery.errors import SurgeryError
from sesurgery.operating.actions import Action
from sesurgery.operating.operated_class import base_of
from sesurgery.operating.perform import perform
from sesurgery.plans import Cost, Edit
from sesurgery.recording.costs import plus
from sesurgery.recording.nested import tensors_in
from sesurgery.recording.recorder import run, run_host
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey


def cost_after(seen: Survey, model: nn.Module, steps: Sequence[Sequence[Action]]) -> Cost:
    """The cost of the operated model, from a forward of its own."""
    body = seen.twin
    if seen.body is not None:
        body = copy.deepcopy(seen.body)
        for step in steps[-1:]:  # those before it were performed when the model was looked at again
            perform(body, step)
    return run(body, seen.args, labels=False).cost


def only_inserts(edits: Sequence[Edit]) -> bool:
    return all(edit.action == "insert" and edit.means in INSERTED for edit in edits)


def one_of_each_kind(seen: Survey, edits: Sequence[Edit]) -> dict[str, Edit]:
    """Hosts that stand for all that get a new forward: one for each code and means, with its edit.

    A socket needs no trial: a probe has been called in it, and the node is known to keep the shape.
    """
    kinds: dict[Any, Edit] = {}
    for edit in edits:
        if edit.means == "socket":
            continue
        host = seen.module(edit.host)
        kinds.setdefault((base_of(host), fingerprint(seen, host), edit.means), edit)
    return {edit.host: edit for edit in kinds.values()}


def _after_inserts(seen: Survey, before: Cost, edits: Sequence[Edit]) -> Cost:
    """The cost with nodes inserted: a node keeps the shape, so everything else costs what it did.

    One host of each kind with a new forward is run, on what its call was recorded with, to see that it still gives
    that shape.
    """
    for path, edit in one_of_each_kind(seen, edits).items():
        host = seen.module(path)
        frame = seen.frame(host)
        if frame is not None:
            _check_shapes(edit, frame.output, run_host(host, frame))
    total = before
    for edit in edits:
        total = plus(total, node_cost(seen, edit), seen.probe.calls.get(seen.module(edit.host), 1))
    return total


def _check_shapes(edit: Edit, before: Any, after: Any) -> None:
    shapes = [[tuple(tensor.shape) for tensor in tensors_in(value)] for value in (before, after)]
    if shapes[0] != shapes[1]:
        raise SurgeryError(
            f"its host would return {shapes[1]} instead of {shapes[0]}",
            where=edit.path,
            remedy="this is a fault of the node or of sesurgery; please report it",
        )


def with_structural_costs(edits: Sequence[Edit], before: Cost, after: Cost) -> Iterator[Edit]:
    """Where there is one edit only, its cost is the difference of the totals."""
    if len(edits) == 1 and edits[0].action != "insert":
        yield replace(edits[0], params=after.params - before.params, macs=after.macs - before.macs)
    else:
        yield from edits
