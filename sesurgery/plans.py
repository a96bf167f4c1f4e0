"""What an operation will do, as pure data: printable, serialisable, replayable on another instance.

This file imports neither torch nor anything else of the package, so a plan can be read where no model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a model costs, for one sample.

    Attributes:
        params: parameters by storage, shared ones once.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
        flops: ``2 * macs`` plus one per element of pooling, activation, gate and scaling.
        items: operations by kind (``conv``, ``linear``, ``matmul`` in MACs; ``pool``, ``activation``, ``gate``,
            ``scale`` in elements).
        uncounted: elements of operations that count as no FLOPs, by operation (``batch_norm``, ``add``, ...).
        bytes: memory of every leaf's output activation, in bytes.
    """

    params: int
    macs: int
    flops: int
    items: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass(frozen=True)
class Edit:
    """One change of one host.

    Attributes:
        action: ``insert``, ``replace``, ``remove`` or ``rewire``.
        path: module path of the node that is new or changed (``layer4.0.se``).
        at: the phrase of the recipe that led here.
        host: module path of the module whose forward or children change; ``""`` is the model itself.
        stage: number of the stage, from 1; None where the site belongs to none.
        block: module path of the block the site lies in.
        channels: channels at the site.
        module: registry name of the node (``se``), or the class name of what takes the place.
        options: everything needed to build the node again.
        means: how it is performed: ``socket`` (the host's own empty attribute is filled), ``graph`` (the host's forward
            is rewritten), ``behind`` (a child of a Sequential is followed by the node), ``child`` (one is exchanged).
        site: where in the host's graph: node names, by role.
        fingerprint: digest of the host's forward before the edit.
        params: parameters added (negative where removed).
        macs: multiply-accumulates added per sample.
        notes: what a user should know about this edit.
    """

    action: str
    path: str
    at: str
    host: str
    stage: int | None
    block: str | None
    channels: int | None
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    means: str = "graph"
    site: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    params: int = 0
    macs: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skip:
    """A site that was looked at and left alone, and why."""

    path: str
    reason: str
    at: str = ""


@dataclass(frozen=True)
class Diff:
    """The forward of one or more equal hosts as code, before and after."""

    paths: tuple[str, ...]
    cls: str
    before: str
    after: str


@dataclass(frozen=True)
class Plan:
    """Edits and refusals, in the order in which they are performed.

    Attributes:
        model: the name the model was asked for by, or its class name.
        recipe: the recipe as used, overrides included (plain data).
        stages: how many stages the model has.
        before, after: costs, where they were computed.
    """

    model: str
    recipe: Mapping[str, Any]
    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...] = ()
    diffs: tuple[Diff, ...] = ()
    stages: int = 0
    before: Cost | None = None
    after: Cost | None = None

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as JSON text; ``Plan.from_json`` gives it back, equal."""
        return json.dumps(self, indent=indent, sort_keys=True, default=vars)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan. Raises ``ValueError`` or ``TypeError`` where the text is none."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Build a plan from plain data, the inverse of ``dataclasses.asdict``."""
        raw = dict(data)
        raw["edits"] = tuple(Edit(**_tuples(edit, "notes")) for edit in raw.get("edits", ()))
        raw["skipped"] = tuple(Skip(**skip) for skip in raw.get("skipped", ()))
        raw["diffs"] = tuple(Diff(**_tuples(diff, "paths")) for diff in raw.get("diffs", ()))
        for key in ("before", "after"):
            raw[key] = Cost(**raw[key]) if raw.get(key) else None
        return cls(**raw)


@dataclass(frozen=True)
class Stage:
    """Blocks that share one feature-map resolution. ``reduction`` is input height over this height."""

    index: int
    reduction: float | None
    height: int | None
    width: int | None
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class MergeInfo:
    """A node where branches meet. ``op``: add, cat or mul; ``kind``: identity, projected, symmetric, concat, gate."""

    path: str
    op: str
    kind: str
    stage: int | None
    channels: int | None


@dataclass(frozen=True)
class Untraced:
    """A module whose forward could not be traced, and why."""

    path: str
    cls: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What the anatomy of a model is, as data.

    Attributes:
        traced: how many modules with a forward of their own were traced.
    """

    model: str
    stages: tuple[Stage, ...]
    merges: tuple[MergeInfo, ...]
    untraced: tuple[Untraced, ...]
    traced: int = 0


def _tuples(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: tuple(value) if key in names else value for key, value in data.items()}
