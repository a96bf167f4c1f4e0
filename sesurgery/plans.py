"""What an operation will do, as pure data: printable, serialisable, replayable on another instance.

This file imports neither torch nor anything else of the package, so a plan can be read where no model is. pydantic
checks a plan that is read back, and is imported only then.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, TypeAlias


class _ByKind:
    """Tells pydantic that ``kind`` says which class of a union some data is meant for."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Field

        return handler(Annotated[source, Field(discriminator="kind")])


class _Shown:
    """Prints itself as the command line would. How is known in a wing above this file, which is imported by then."""

    def __str__(self) -> str:
        return str(_report().as_text(self))

    def _repr_html_(self) -> str:
        return str(_report().as_html(self))


def _report() -> Any:
    return import_module("sesurgery.report.shown")


class _Strict:
    """What is read back from JSON: every key is known, every value has its type."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Cost(_Strict):
    """What one forward pass of a model costs, for one sample.

    Attributes:
        params: parameters by storage, shared ones once.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
        flops: ``2 * macs`` plus one per element of pooling, activation, gate and scaling.
        items: operations by kind (``conv``, ``linear``, ``matmul`` in MACs; ``pool``, ``activation``, ``gate``,
            ``scale`` in elements).
        uncounted: elements of operations that count as no FLOPs, by operation (``batch_norm``, ``add``, ...).
        activation_bytes: what a training step keeps for its backward pass: the memory of all that autograd saves, each
            storage once, parameters and buffers left out, as if every parameter were trained. Counted in eval mode, so
            without the masks of dropout. 0 where the model does not run with gradients.
        weight_bytes: the tensors of the state_dict, shared ones once: the size of the file.
        own: by path of a module what its own code and weights cost, without its children. It is no part of the JSON.
    """

    params: int
    macs: int
    flops: int
    items: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    activation_bytes: int = 0
    weight_bytes: int = 0
    own: Mapping[str, Cost] = field(default_factory=dict, compare=False, repr=False)

    def by_module(self) -> dict[str, Cost]:
        """What each module costs with all that is inside it, by path; ``""`` is the model. Empty for a cost from JSON.

        >>> cost.by_module()["layer4"].macs
        811018240
        """
        parts: dict[str, list[Cost]] = {}
        for path, own in self.own.items():
            names = path.split(".") if path else []
            for depth in range(len(names) + 1):
                parts.setdefault(".".join(names[:depth]), []).append(own)
        return {path: added(costs) for path, costs in parts.items()}

    def inside(self, paths: Iterable[str]) -> Cost:
        """What the modules at these paths cost with all that is inside them, each module once."""
        roots = set(paths)
        lies = (path for path in self.own if any(outer in roots for outer in _outwards(path)))
        return added(self.own[path] for path in lies)


def _outwards(path: str) -> Iterable[str]:
    names = path.split(".")
    return (".".join(names[:depth]) for depth in range(1, len(names) + 1))


def added(costs: Iterable[Cost]) -> Cost:
    """The sum of some costs."""
    numbers = dict.fromkeys(("params", "macs", "flops", "activation_bytes", "weight_bytes"), 0)
    items: Counter[str] = Counter()
    uncounted: Counter[str] = Counter()
    for cost in costs:
        for key in numbers:
            numbers[key] += getattr(cost, key)
        items.update(cost.items)
        uncounted.update(cost.uncounted)
    return Cost(**numbers, items=dict(items), uncounted=dict(uncounted))


@dataclass(frozen=True)
class AttentionLayer(_Strict):
    """A layer of the registry for one activation.

    Attributes:
        module: its name in the registry.
        options: its options; the place has answered ``reduce_from`` and ``act: inherit``.
        shape: of the activation, batch included.
        axis: the axis of ``shape`` that holds the channels.
    """

    module: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    axis: int
    kind: Literal["attention"] = "attention"


@dataclass(frozen=True)
class Identity(_Strict):
    """Nothing: what was there is taken out."""

    kind: Literal["identity"] = "identity"


@dataclass(frozen=True)
class WithoutNorm(_Strict):
    """What a norm leaves behind: the activation and the dropout that it held."""

    kind: Literal["without norm"] = "without norm"


@dataclass(frozen=True)
class OtherConv(_Strict):
    """The same convolution with another kernel, dilation and stride, per axis.

    Attributes:
        stride: empty where it stays.
        embed: whether old weights go into the new kernel.
        pad: whether the padding grows with the kernel.
    """

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    embed: bool
    pad: bool
    stride: tuple[int, ...] = ()
    kind: Literal["conv"] = "conv"


@dataclass(frozen=True)
class OtherActivation(_Strict):
    """An activation, by its name in timm's registry."""

    activation: str
    kind: Literal["activation"] = "activation"


@dataclass(frozen=True)
class OtherNorm(_Strict):
    """A ``batch``, ``group``, ``layer`` or ``instance`` norm for an activation of this shape and channel axis.

    Attributes:
        groups: of a group norm; 0: 32, or as many as divide it and the channels.
    """

    norm: str
    shape: tuple[int, ...]
    axis: int
    groups: int = 0
    kind: Literal["norm"] = "norm"


# The layers that take a convolution's stride, groups and widths over.
SelectiveName = Literal["sk", "skconv"]


@dataclass(frozen=True)
class SelectiveConv(_Strict):
    """A selective kernel with the convolution's widths, groups and stride.

    Attributes:
        options: of the layer.
        module: its name in the registry.
    """

    options: Mapping[str, Any]
    module: SelectiveName = "sk"
    kind: Literal["selective kernel"] = "selective kernel"


@dataclass(frozen=True)
class CrossStage(_Strict):
    """A cross-stage partial stage of the block that was there and those at ``sources``.

    Attributes:
        widths: channels that go through the blocks, and channels that go around.
        inner: channels inside the blocks.
    """

    widths: tuple[int, int]
    inner: int
    sources: tuple[str, ...]
    kind: Literal["csp"] = "csp"


@dataclass(frozen=True)
class CustomLayer(_Strict):
    """What an edit kind of a user's own puts in the place, with what stands in the braces of its rule."""

    action: str
    settings: Mapping[str, Any]
    kind: Literal["custom"] = "custom"


Substitute: TypeAlias = Annotated[
    AttentionLayer
    | Identity
    | WithoutNorm
    | OtherConv
    | OtherActivation
    | OtherNorm
    | SelectiveConv
    | CrossStage
    | CustomLayer,
    _ByKind(),
]


@dataclass(frozen=True)
class _AtSite(_Strict):
    """A layer at a site of the host's graph.

    Attributes:
        value: name of the graph's node whose activation the layer takes.
        users: names of the nodes that take the layer's output; every user where empty.
        ordinal: which of the host's sites it is, from 0.
    """

    layer: AttentionLayer
    value: str
    users: tuple[str, ...]
    ordinal: int


@dataclass(frozen=True)
class FillSocket(_AtSite):
    """The host's own empty attribute is filled; its forward stays as it is."""

    kind: Literal["fill socket"] = "fill socket"
    route: ClassVar[str] = "socket"


@dataclass(frozen=True)
class RewriteForward(_AtSite):
    """The host's forward is rewritten to call the layer."""

    kind: Literal["rewrite forward"] = "rewrite forward"
    route: ClassVar[str] = "source"


@dataclass(frozen=True)
class InsertIntoGraph(_AtSite):
    """The host is a torch.fx.GraphModule: the call of the layer goes into its graph."""

    kind: Literal["insert into graph"] = "insert into graph"
    route: ClassVar[str] = "graph"


@dataclass(frozen=True)
class AppendBehind(_Strict):
    """The host, a child of a Sequential for example, is followed by the layer."""

    layer: AttentionLayer
    kind: Literal["append behind"] = "append behind"
    route: ClassVar[str] = "behind"


@dataclass(frozen=True)
class Swap(_Strict):
    """The module at ``path`` gives its place to another; ``was`` is a digest of it."""

    path: str
    was: str
    new: Substitute


@dataclass(frozen=True)
class SwapChild(_Strict):
    """Children are exchanged: first the one that the edit is about, then those that have to go with it."""

    swaps: tuple[Swap, ...]
    kind: Literal["swap child"] = "swap child"
    route: ClassVar[str] = "child"


@dataclass(frozen=True)
class BypassGate(_Strict):
    """A gate that is written in the host's forward leaves it, and a layer takes its place if one is given.

    Attributes:
        product: name of the graph's node that multiplies.
    """

    product: str
    layer: AttentionLayer | None = None
    kind: Literal["bypass gate"] = "bypass gate"
    route: ClassVar[str] = "source"


Insertion: TypeAlias = FillSocket | RewriteForward | InsertIntoGraph | AppendBehind
Change: TypeAlias = Annotated[
    FillSocket | RewriteForward | InsertIntoGraph | AppendBehind | SwapChild | BypassGate, _ByKind()
]


@dataclass(frozen=True)
class Edit(_Strict):
    """One change of one host.

    Attributes:
        action: ``insert``, ``replace``, ``remove`` or ``rewire``.
        path: module path of the layer that is new or changed (``layer4.0.se``).
        at: the phrase of the recipe that led here.
        host: module path of the module whose forward or children change; ``""`` is the model itself.
        stage: number of the stage, from 1; None where the site belongs to none.
        block: module path of the block the site lies in.
        channels: channels at the site.
        module: registry name of the layer (``se``), or the class name of what takes the place.
        change: how it is performed, with all that is needed to perform it again.
        fingerprint: digest of the host's forward before the edit.
        step: the rule of the recipe that it belongs to, from 0.
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
    change: Change
    fingerprint: str = ""
    step: int = 0
    params: int = 0
    macs: int = 0
    notes: tuple[str, ...] = ()

    @property
    def route(self) -> str:
        """How the layer gets there: ``socket``, ``graph``, ``behind`` or ``child``."""
        return self.change.route

    @property
    def name(self) -> str:
        """The attribute of the host that holds the layer."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Skip(_Strict):
    """A site that was looked at and left alone, and why; ``meant`` is false where ``where:`` left it out."""

    path: str
    reason: str
    at: str = ""
    meant: bool = True


@dataclass(frozen=True)
class Diff(_Strict):
    """What changes in one or more equal hosts: a method in its author's words, or what their attributes hold.

    Attributes:
        paths: module paths of the hosts.
        cls: their class.
        before, after: whole lines, without the indentation of the method.
        file, line: where the author's text begins; empty and 0 where it is no file's.
    """

    paths: tuple[str, ...]
    cls: str
    before: str
    after: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Plan(_Shown, _Strict):
    """Edits and refusals, in the order in which they are performed.

    Attributes:
        model: the name the model was asked for by, or its class name.
        recipe: the recipe as used, overrides included (plain data).
        stages: how many stages the model has.
        before, after: costs, where they were computed.
        inputs: the shapes of the sample that was looked at, without the axis of samples: one for each tensor.
    """

    model: str
    recipe: Mapping[str, Any]
    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...] = ()
    diffs: tuple[Diff, ...] = ()
    stages: int = 0
    before: Cost | None = None
    after: Cost | None = None
    inputs: tuple[tuple[int, ...], ...] = ()

    def only(self, wanted: Callable[[Edit], bool]) -> Plan:
        """The plan with those edits for which ``wanted`` is true; ``apply(model, plan)`` counts its costs anew.

        >>> plan.only(lambda edit: edit.stage == 4)
        """
        edits = tuple(edit for edit in self.edits if wanted(edit))
        left = tuple(Skip(edit.path, "left out by plan.only", edit.at) for edit in self.edits if edit not in edits)
        return replace(self, edits=edits, skipped=(*self.skipped, *left), diffs=(), after=None)

    def report(self, *, code: bool = True, every: bool = False) -> str:
        """What ``sesurgery preview`` prints: what changes in the code, the edits, what was left alone, and the costs.

        Args:
            code: with the code; ``print(plan)`` is the report without.
            every: the code of every host, and not only of as many as fit on a screen or two.
        """
        return str(_report().as_text(self, code=code, every=every))

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as JSON text; ``Plan.from_json`` gives it back, equal."""
        return json.dumps(self, indent=indent, sort_keys=True, default=_fields)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan. Raises ``ValueError``, which says where and why, for a text that is none."""
        from pydantic import ValidationError

        try:
            return _reader().validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise ValueError(f"{place}: {first['msg']}{more}".removeprefix(": ")) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Build a plan from plain data, the inverse of ``dataclasses.asdict``. Raises ``ValueError``, ``TypeError``."""
        return cls.from_json(json.dumps(data))


def _fields(value: Any) -> dict[str, Any]:
    """What JSON says of an object."""
    return {key: item for key, item in vars(value).items() if not (key == "own" and isinstance(value, Cost))}


@functools.cache
def _reader() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)


@dataclass(frozen=True)
class Stage:
    """Blocks of one region that share one feature-map resolution. ``reduction`` is input height over this height.

    Regions are ``backbone``, ``neck`` and ``head``; each counts its stages from 1.
    """

    index: int
    reduction: float | None
    height: int | None
    width: int | None
    blocks: tuple[str, ...]
    region: str = "backbone"


@dataclass(frozen=True)
class MergeInfo:
    """A node where branches meet. ``op``: add, cat or mul; ``kind``: identity, projected, symmetric, concat, gate."""

    path: str
    op: str
    kind: str
    stage: int | None
    channels: int | None
    region: str = "backbone"


@dataclass(frozen=True)
class Untraced:
    """A module whose forward could not be traced, and why."""

    path: str
    cls: str
    reason: str


@dataclass(frozen=True)
class RecipeCost(_Strict):
    """What a shipped recipe would add to a model."""

    recipe: str
    edits: int
    params: int
    macs: int


@dataclass(frozen=True)
class Inspection(_Shown):
    """What the anatomy of a model is, as data.

    Attributes:
        traced: how many modules with a forward of their own were traced.
        inputs: the shapes of the sample that was looked at, as in a plan.
        cost: of the whole model.
        stage_costs: of the blocks of each stage; what is left of ``cost`` lies elsewhere, in stem and head.
        recipe_costs: what each shipped recipe that finds a place would add; empty where nobody asked for it.
    """

    model: str
    stages: tuple[Stage, ...]
    merges: tuple[MergeInfo, ...]
    untraced: tuple[Untraced, ...]
    traced: int = 0
    inputs: tuple[tuple[int, ...], ...] = ()
    cost: Cost | None = None
    stage_costs: tuple[Cost, ...] = ()

    def figure(self) -> Any:
        """The share of each stage in parameters, MACs, activation bytes and weight bytes: a ``matplotlib`` figure.

        Raises:
            InputError: matplotlib is not installed, or the model has no stages.
        """
        return import_module("sesurgery.drawing.stages").stage_figure(self)

    recipe_costs: tuple[RecipeCost, ...] = ()
