"""What ``--json`` prints, as plain data. Keys are a contract: add, never rename."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sesurgery.api import Surgery
    from sesurgery.attention.options import Entry
    from sesurgery.excitation.result import Gates
    from sesurgery.plans import Cost, Edit, Inspection, Plan
    from sesurgery.timing.result import Latency
    from sesurgery.verification.result import Verification

COST_KEYS = ("params", "macs", "flops", "activation_bytes", "weight_bytes")
EDIT_KEYS = ("action", "path", "at", "stage", "block", "channels", "module", "route", "params", "macs", "notes")


def dump(data: dict[str, Any]) -> str:
    """JSON text in ASCII, so that no encoding can spoil it."""
    return json.dumps(data, indent=2)


def plan_data(plan: Plan, recipe: str, *, diffs: bool = False) -> dict[str, Any]:
    """A plan as data; ``recipe`` is what was asked for, ``diffs`` the rewritten forwards."""
    data: dict[str, Any] = {
        "model": plan.model,
        "recipe": recipe,
        "input_size": _size(plan.inputs),
        "edits": [_edit(edit) for edit in plan.edits],
        "skipped": [{"path": skip.path, "reason": skip.reason, "at": skip.at} for skip in plan.skipped],
        "before": _cost(plan.before),
        "after": _cost(plan.after),
    }
    if diffs:
        data["diffs"] = [
            {"paths": diff.paths, "class": diff.cls, "file": diff.file, "line": diff.line}
            | {"before": diff.before, "after": diff.after}
            for diff in plan.diffs
        ]
    return data


def surgery_data(
    surgery: Surgery,
    recipe: str,
    output: Path | None,
    verification: Verification | None = None,
    latency: Latency | None = None,
) -> dict[str, Any]:
    """A plan as performed, with ``notes``, ``drift`` (None where no weights were run), and what else was asked for."""
    return {
        **plan_data(surgery.plan, recipe),
        "before": _cost(surgery.before),
        "after": _cost(surgery.after),
        "notes": list(surgery.notes),
        "drift": surgery.drift,
        "output": None if output is None else str(output),
        "verification": None if verification is None else verification_data(verification),
        "latency": None if latency is None else latency_data(latency),
    }


def latency_data(latency: Latency) -> dict[str, Any]:
    """Medians in seconds, the ratio with its interval, and every pair."""
    derived = ("before", "after", "ratio", "interval", "within_noise")
    return {**dataclasses.asdict(latency), **{key: getattr(latency, key) for key in derived}}


def verification_data(verification: Verification) -> dict[str, Any]:
    """``equal``, and all that a verification says; a size that is no finite number is null."""
    data = dataclasses.asdict(verification)
    for difference in (*data["differences"], *data["unstable"]):
        size = difference["size"]
        difference["size"] = size if size is not None and math.isfinite(size) else None
    return {"equal": bool(verification), **data}


def gates_data(result: Gates) -> dict[str, Any]:
    """``model``, ``samples``, ``classes``, ``layers`` with all that was measured of each, and ``notes``."""
    return dataclasses.asdict(result)


def inspection_data(inspection: Inspection) -> dict[str, Any]:
    """``model``, ``input_size``, ``stages``, ``merges``, ``untraced`` and how many modules were ``traced``."""
    untraced = [{"path": item.path, "class": item.cls, "reason": item.reason} for item in inspection.untraced]
    return {
        "model": inspection.model,
        "input_size": _size(inspection.inputs),
        "stages": [dataclasses.asdict(stage) for stage in inspection.stages],
        "merges": [dataclasses.asdict(merge) for merge in inspection.merges],
        "untraced": untraced,
        "traced": inspection.traced,
        "cost": _cost(inspection.cost),
        "stage_costs": [_cost(cost) for cost in inspection.stage_costs],
        "recipe_costs": [dataclasses.asdict(cost) for cost in inspection.recipe_costs],
    }


def layer_data(entry: Entry) -> dict[str, Any]:
    """A layer of the registry: ``name``, ``summary``, ``source``, ``layouts`` and ``options`` with their defaults."""
    from sesurgery.attention.registry import choices

    defaults = {"init": "paper", "reduce_from": "site", **entry.defaults}
    options = {key: {"default": defaults.get(key), "may_be": choices(entry, key)} for key in sorted(entry.accepted)}
    return {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "layouts": sorted(entry.layouts),
        "options": options,
    }


def _edit(edit: Edit) -> dict[str, Any]:
    return {key: getattr(edit, key) for key in EDIT_KEYS}


def _cost(cost: Cost | None) -> dict[str, int] | None:
    return None if cost is None else {key: getattr(cost, key) for key in COST_KEYS}


def _size(shapes: Sequence[Sequence[int]]) -> Sequence[Any]:
    """The size of one sample; of each tensor, where a model takes several."""
    return list(shapes[0]) if len(shapes) == 1 else [list(shape) for shape in shapes]
