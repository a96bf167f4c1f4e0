"""What was done to a model, and what of a user's own that needs: attention layers and edit kinds from their files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sesurgery.artifact.record import Need, Operated, Operation
from sesurgery.attention.registry import REGISTRY
from sesurgery.edits.kinds import KINDS
from sesurgery.errors import ArtifactError, UnknownNameError
from sesurgery.words.registry import Registry

_Kind = Literal["module", "edit kind"]
_REGISTRIES: dict[_Kind, Registry[Any]] = {"module": REGISTRY, "edit kind": KINDS}
_FIELDS: dict[_Kind, str] = {"module": "module", "edit kind": "action"}


def done_to(history: Mapping[str, Any]) -> Operated:
    """What the mark of an operated model says was done to it."""
    plans = [json.loads(text) for text in history["plans"]]
    operations = [Operation(plan=plan, input=given) for plan, given in zip(plans, history["inputs"], strict=True)]
    return Operated(operations=operations, needs=_needs_of(plans))


def check_needs(needs: Iterable[Need], where: str) -> None:
    """Raise ``ArtifactError``, naming what to import, where something is not registered that an artefact needs."""
    for need in needs:
        try:
            _REGISTRIES[need.kind].find(need.name)
        except UnknownNameError:
            problem = f'was made with the {need.kind} "{need.name}" of {need.origin}, which is not registered here'
            raise ArtifactError(
                problem, where=where, remedy=f"import {need.origin} first, then load it again"
            ) from None


def _needs_of(plans: Iterable[dict[str, Any]]) -> list[Need]:
    """What of the user's own the edits of some plans use."""
    edits = [edit for plan in plans for edit in plan["edits"]]
    return [
        Need(kind=kind, name=name, origin=origin[:200])
        for kind, field in _FIELDS.items()
        for name in dict.fromkeys(str(edit[field]) for edit in edits)
        if (origin := _REGISTRIES[kind].origin(name)) is not None
    ]
