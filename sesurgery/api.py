"""The public functions: plan, apply, revert, inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypedDict, Unpack, overload

import torch
from torch import nn
from typing_extensions import TypeVar

from sesurgery.errors import InputError, ModelError, SurgeryError, UnknownNameError, either, nearest
from sesurgery.models import zoo
from sesurgery.models.checkpoints import load_into
from sesurgery.operating.backup import MODEL_MARK
from sesurgery.operating.distributed import refuse_operation
from sesurgery.operating.perform import revert as _revert
from sesurgery.planning.drift import Drift
from sesurgery.planning.operation import drafted, name_of, operate, rehearse, remember_weights
from sesurgery.planning.places import places_in
from sesurgery.planning.planner import Draft, Progress
from sesurgery.planning.recipe_costs import recipe_costs
from sesurgery.plans import Cost, Inspection, Plan
from sesurgery.recipe.recipe import load_recipe, override
from sesurgery.recipe.rules import Recipe
from sesurgery.recording.nested import sample_shapes
from sesurgery.recording.recorder import has_own_forward
from sesurgery.tracing.deep_copy import deep_copy, is_plain, own_functions
from sesurgery.words.text import listed, reason

RecipeLike = str | Path | Mapping[str, Any] | Recipe


Model = TypeVar("Model", bound=nn.Module, default=nn.Module)


@dataclass(frozen=True)
class Surgery(Generic[Model]):
    """A performed operation. It prints itself, and plan and costs, as the command line does.

    Attributes:
        model: the operated model (the given one where ``inplace=True``, else a copy or a new one).
        plan: what was done, as data; replays on another instance with ``apply(other, plan)``.
        drift: how far the output moved at insertion, ``|new - old| / |old|`` on one random input; None where no weights
            were loaded. 0.0 says that no bit changed.
        notes: what a user should know.
    """

    model: Model
    plan: Plan
    drift: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def before(self) -> Cost:
        """Cost of the model as it was."""
        assert self.plan.before is not None
        return self.plan.before

    @property
    def after(self) -> Cost:
        """Cost of the operated model."""
        assert self.plan.after is not None
        return self.plan.after

    def __str__(self) -> str:
        return str(import_module("sesurgery.report.shown").as_text(self))

    def _repr_html_(self) -> str:
        return str(import_module("sesurgery.report.shown").as_html(self))

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that the operation brought in, for an optimizer group of their own."""
        brought: dict[nn.Parameter, None] = {}
        for edit in self.plan.edits:
            if edit.action != "remove":
                brought.update(dict.fromkeys(self.model.get_submodule(edit.path).parameters()))
        return list(brought)


def network_of(given: object, where: str) -> nn.Module:
    """The network of what ``apply`` returned, or the module that was given. Raises ``InputError`` for anything else."""
    body = given.model if isinstance(given, Surgery) else given
    if not isinstance(body, nn.Module):
        raise InputError(f"a {type(body).__name__} is no model", where=where, remedy="give a torch.nn.Module")
    return body


def plan(
    model: str | nn.Module,
    recipe: RecipeLike,
    *,
    stages: str | int | None = None,
    module: str | None = None,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Say what ``apply`` would do and what it would cost, without touching the model. No weights are materialised.

    Args:
        model: a name (``resnet50``, ``timm:…``, ``torchvision:…``, ``file.py:factory``, ``pkg.mod:factory``), a module.
        recipe: the name of a recipe, a file, a mapping or a Recipe.
        stages: takes the place of the recipe's stages: ``4``, ``"1,3"``, ``"2-4"``, ``"-1"``, ``"last2"``, ``"all"``.
        module: another node for the recipe's places: ``"eca"``.
        example_input: a tensor (N, C, H, W), or a tuple of positional arguments; derived where left out.
        input_size: ``(3, 224, 224)``, ``"3,224,224"`` or ``"224"``, in the place of an example.
        model_args: arguments for the model's builder, where it is given by name.
        progress: called as ``progress(step, done, total)``.
        **options: options of the node: ``reduction=8``, ``init="identity"``.

    Raises:
        InputError: bad input (a subclass says what kind).
        NothingMatchedError: the recipe found no site.
    """
    wanted = recipe_for(recipe, stages, module, options)
    body, spec = resolved(model, model_args, "meta")
    return drafted(body, spec, wanted, example_input, input_size, progress).plan


class Options(TypedDict, total=False):
    """Options of the shipped layers and structural edits, as type checkers are to know them.

    Those of a layer of your own go into the recipe, or as ``**{"mine": 3}``.
    """

    act: str
    act_slope: float
    bias: bool
    block_size: int
    dilation: int | Sequence[int]
    dim_head: int
    drop_rate: float
    e_lambda: float
    embed: bool
    extent: int
    extra_params: bool
    gate: str
    groups: int
    halo_size: int
    init: str
    keep_3x3: bool
    kernel: int | Sequence[int]
    kernel_size: int | None
    name: str
    num_heads: int
    radix: int
    rd_channels: int | None
    rd_divisor: int
    rd_least: int
    reduce_from: str
    reduction: float
    shared: bool
    softmax: str
    split_input: bool
    squeeze: str
    stride: int


class Asked(Options, total=False):
    """The keywords of ``apply``."""

    stages: str | int | None
    inplace: bool
    example_input: Any
    input_size: Sequence[int] | str | None
    module: str | None
    model_args: Mapping[str, Any] | None
    device: str | torch.device
    pretrained: bool
    weights: str | Path | None
    progress: Progress | None


@overload
def apply(model: Model, recipe: RecipeLike | Plan, **asked: Unpack[Asked]) -> Surgery[Model]: ...
@overload
def apply(model: str, recipe: RecipeLike | Plan, **asked: Unpack[Asked]) -> Surgery[nn.Module]: ...
def apply(
    model: str | nn.Module,
    recipe: RecipeLike | Plan,
    *,
    stages: str | int | None = None,
    inplace: bool = False,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    module: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    pretrained: bool = False,
    weights: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Surgery[Any]:
    """Operate on a model.

    The arguments are those of ``plan``, and:

    Args:
        recipe: or a finished plan, to replay on another instance.
        inplace: change the given module itself; else a copy is operated on.
        device: where a model given by name is made; ``"meta"`` materialises no weights.
        pretrained: load the library's pretrained weights (a model given by name).
        weights: a checkpoint to load before the operation, every key accounted for.

    Raises:
        InputError, NothingMatchedError: as ``plan``; the model is then exactly as it was.
        StalePlanError: the plan was made for another network.
    """
    wanted = recipe if isinstance(recipe, Plan) else recipe_for(recipe, stages, module, options)
    if isinstance(recipe, Plan) and (stages is not None or module is not None or options):
        raise InputError("a finished plan takes no stages, module or options", remedy="plan again with them")
    body, spec = resolved(model, model_args, device, pretrained)
    notes: list[str] = []
    target = body if inplace or spec is not None else _copied(body)
    if weights is not None:
        report = load_into(target, weights)
        notes += [*report.notes, *report.warnings]
    draft = drafted(target, spec, wanted, example_input, input_size, progress)
    probe = Drift(target, draft) if pretrained or weights is not None else None
    operate(target, draft, spec)
    if pretrained or weights is not None:
        remember_weights(target, weights)
    drift = probe.measured() if probe is not None else None
    notes += _advice(draft)
    return Surgery(target, draft.plan, drift, tuple(notes))


def revert(model: nn.Module) -> nn.Module:
    """Undo every operation on ``model`` in place and return it: classes, attributes and keys are the old ones.

    Raises:
        InputError: there is nothing to undo.
    """
    return _revert(model)


def plans_of(model: nn.Module) -> tuple[Plan, ...]:
    """What was done to ``model`` as a whole, oldest first; empty where nothing was, or it was reverted."""
    return tuple(Plan.from_json(text) for text in model.__dict__.get(MODEL_MARK, {"plans": ()})["plans"])


def inspect(
    model: str | nn.Module,
    *,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    recipes: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Stages, merges and what could not be traced, without touching the model. Arguments as in ``plan``.

    Args:
        recipes: also count what each shipped recipe would add, which takes seconds.
    """
    body, spec = resolved(model, model_args, "meta")
    if progress is not None:
        progress("looking at the model", 0, 1)

    rehearsal = rehearse(body, spec, example_input, input_size)
    anatomy, cost = rehearsal.look(), rehearsal.cost()
    return Inspection(
        model=name_of(body, spec),
        stages=anatomy.stages,
        merges=anatomy.reported_merges(),
        untraced=(),
        traced=sum(1 for host, _ in anatomy.survey.hosts() if has_own_forward(host)),
        inputs=sample_shapes(rehearsal.example),
        cost=cost,
        stage_costs=tuple(cost.inside(stage.blocks) for stage in anatomy.stages),
        recipe_costs=recipe_costs(anatomy, progress) if recipes else (),
    )


def places(
    model: str | nn.Module,
    *,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """How many places each phrase of ``at:`` has in a model, which stays untouched. Arguments as in ``plan``."""
    body, spec = resolved(model, model_args, "meta")
    if progress is not None:
        progress("looking at the model", 0, 1)
    return places_in(rehearse(body, spec, example_input, input_size).look())


def recipe_for(recipe: RecipeLike, stages: str | int | None, module: str | None, options: Mapping[str, Any]) -> Recipe:
    """A recipe with what ``apply`` was asked for in its place."""
    loaded = load_recipe(recipe)
    if stages is None and module is None and not options:
        return loaded
    try:
        return override(loaded, stages=stages, module=module, options=options)
    except UnknownNameError as error:
        near = nearest(error.name, Asked.__annotations__, count=1)
        if error.name not in options or error.name in near or error.nearest or not near:
            raise
        raise InputError(f'there is no argument "{error.name}"', remedy=f"did you mean {either(near)}?") from None


def resolved(
    model: str | nn.Module, args: Mapping[str, Any] | None, device: str | torch.device, pretrained: bool = False
) -> tuple[nn.Module, zoo.ModelSpec | None]:
    """The module that a user gives, or names; with how it is made, where it is named."""
    if isinstance(model, nn.Module):
        if args:
            raise InputError("model_args go with a name, not with a finished module", where="model_args")
        return model, None
    if not isinstance(model, str):
        raise InputError(
            f"a {type(model).__name__} is no model", where="model", remedy="give a name or a torch.nn.Module"
        )
    spec = zoo.resolve(model, args)
    return zoo.create(spec, device=device, pretrained=pretrained), spec


def _copied(model: nn.Module) -> nn.Module:
    refuse_operation(model)
    memo: dict[int, Any] = {}
    try:
        copied = deep_copy(model, memo, is_plain)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {reason(error)}",
            where=type(model).__name__,
            remedy="operate on it itself: inplace=True",
        ) from error
    parts = dict(copied.named_modules(remove_duplicate=False))
    for path, module in model.named_modules():  # torchvision's feature extractors come back in train mode
        if path in parts and parts[path].training != module.training:
            parts[path].train(module.training)
    if any(path not in parts or parts[path].training != module.training for path, module in model.named_modules()):
        raise ModelError(
            "copy.deepcopy gives another model: its modules or their modes are not those of the original",
            where=type(model).__name__,
            remedy="operate on it itself: inplace=True",
        )
    return own_functions(model, copied, memo, boxes=False)


def _advice(draft: Draft) -> list[str]:
    """The notes of all edits, each once, with the places that it is about."""
    places: dict[str, list[str]] = {}
    for edit in draft.plan.edits:
        for note in edit.notes:
            places.setdefault(note, []).append(edit.path)
    return [f"{listed(paths, 1)}: {note}" for note, paths in places.items()]


__all__ = ["Surgery", "SurgeryError", "apply", "inspect", "plan", "plans_of", "revert"]
