"""Operated models in ultralytics: its trainers build the network anew, so the operation is repeated where they do.

Nothing of ultralytics is copied or required; it is licensed under AGPL-3.0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import torch
from torch import nn

from sesurgery.api import RecipeLike, plans_of, recipe_for
from sesurgery.errors import InputError
from sesurgery.integrations.operations import new_layers, operations_in, recipes_in, repeat_operations
from sesurgery.models import zoo
from sesurgery.operating.backup import is_operated
from sesurgery.planning.operation import drafted, operate
from sesurgery.plans import Plan
from sesurgery.recipe.recipe import to_data
from sesurgery.recipe.rules import Recipe

_LARGEST_STRIDE = 32


class OperatingTrainer:
    """Stands before a trainer of ultralytics among the bases of what ``trainer`` returns."""

    wanted: Recipe | Plan | None = None
    model: Any
    args: Any
    data: Any
    # Modules that freeze=N names but for the new layers inside of them.
    _partly_frozen: tuple[nn.Module, ...] = ()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """The network of ``cfg`` with the weights, operated.

        A plain checkpoint is loaded before the operation, which leaves every tensor where it is. Of an operated one
        (``best.pt``, ``last.pt``) the operations are repeated first.
        """
        build: Callable[..., nn.Module] = super().get_model  # type: ignore[misc]
        done = operations_in(weights) if isinstance(weights, nn.Module) else {}
        if not done:
            if self.wanted is None:
                raise InputError(
                    "neither the trainer nor the weights say what to operate", where="trainer", remedy="give a recipe"
                )
            model = build(cfg, weights, verbose)
            self._operate(model, self.wanted)
            return model
        self._check_same(done)
        model = build(cfg, None, verbose)
        for plan in plans_of(weights):
            self._operate(model, plan)
        repeat_operations(model, {path: each for path, each in done.items() if path}, "the weights")
        model.load(weights)  # type: ignore[operator]
        return model

    def setup_model(self) -> Any:
        """As the trainer's own; then ``freeze`` names the parts that are frozen, and new layers are none of them."""
        from ultralytics.nn.tasks import BaseModel  # pyright: ignore[reportMissingImports]

        checkpoint = super().setup_model()  # type: ignore[misc]
        # A model that distils holds the network, and a teacher behind it.
        root = next((part for part in self.model.modules() if isinstance(part, BaseModel) and new_layers(part)), None)
        if root is not None:
            self.args.freeze, self._partly_frozen = spared(root, self.args.freeze)
        return checkpoint

    def _model_train(self) -> None:
        """A trainer freezes what lies inside of the modules that it knows by name; what they own themselves follows."""
        super()._model_train()  # type: ignore[misc]
        for part in self._partly_frozen:
            for parameter in part.parameters(recurse=False):
                parameter.requires_grad_(False)
            for child in part.children():
                if isinstance(child, nn.BatchNorm2d) and not child.weight.requires_grad:
                    child.eval()

    def _operate(self, model: nn.Module, wanted: Recipe | Plan) -> None:
        spec = _spec(model)
        size = max(map(int, torch.as_tensor(self.args.imgsz).flatten().tolist()))
        side = -(-size // _LARGEST_STRIDE) * _LARGEST_STRIDE
        example = torch.zeros(1, self.data["channels"], side, side, device="meta")
        operate(model, drafted(model, spec, wanted, example, None, None), spec)

    def _check_same(self, done: Mapping[str, Any]) -> None:
        if self.wanted is None:
            return
        asked = self.wanted.recipe if isinstance(self.wanted, Plan) else to_data(self.wanted)
        recipes = [recipe for part in recipes_in(done, "the weights").values() for recipe in part]
        if asked not in recipes:
            names = ", ".join(str(recipe.get("name")) for recipe in recipes)
            raise InputError(
                f"the weights were operated by another recipe ({names}), which training goes on with",
                where="trainer",
                remedy="leave recipe out; or apply the other one too, and give its model",
            )


def trainer(
    base: type,
    recipe: RecipeLike | Plan | None = None,
    *,
    stages: str | int | None = None,
    module: str | None = None,
    **options: Any,
) -> type:
    """A trainer that trains the operated network: ``YOLO(...).train(trainer=trainer(DetectionTrainer, "standard"))``.

    Plain checkpoints are carried over, all their tensors; operated ones are trained further and resumed. What it saves
    is loaded by ``YOLO("best.pt")`` where sesurgery is installed: to validate, predict and export. ``freeze=N`` leaves
    the new layers trainable.

    Args:
        base: a trainer of ultralytics, for any of its tasks.
        recipe, stages, module, options: as ``apply`` takes them; or a finished plan; None for operated weights.

    Raises:
        InputError: ``base`` is no trainer, or the recipe has a mistake.
    """
    if not (isinstance(base, type) and callable(getattr(base, "get_model", None)) and hasattr(base, "setup_model")):
        remedy = "give a class such as ultralytics.models.yolo.detect.DetectionTrainer"
        raise InputError("is no trainer of ultralytics", where=f"trainer({base!r})", remedy=remedy)
    if issubclass(base, OperatingTrainer):
        remedy = "give that of ultralytics, with one recipe that has all rules"
        raise InputError("is a trainer that operates already", where=f"trainer({base.__name__})", remedy=remedy)
    finished = recipe is None or isinstance(recipe, Plan)
    if finished and (stages is not None or module is not None or options):
        raise InputError("stages, module and options go with a recipe", where="trainer", remedy="name a recipe")
    wanted = recipe if recipe is None or isinstance(recipe, Plan) else recipe_for(recipe, stages, module, options)
    return type(base.__name__, (OperatingTrainer, base), {"wanted": wanted, "__doc__": base.__doc__})


def spared(root: nn.Module, freeze: Any) -> tuple[Any, tuple[nn.Module, ...]]:
    """What ``freeze=N`` or ``freeze=[...]`` of ultralytics means where new layers are to be left out.

    Returns:
        The numbers and paths to freeze, and the modules that are frozen but for what is new inside of them.
    """
    new = set(new_layers(root))
    numbers = range(freeze) if isinstance(freeze, int) else freeze if isinstance(freeze, list | tuple) else ()
    partly: list[nn.Module] = []
    paths = [path.removeprefix("model.") for each in numbers for path in _old(root, f"model.{each}", new, partly)]
    return (paths, tuple(partly)) if partly else (freeze, ())


def _old(root: nn.Module, path: str, new: Set[str], partly: list[nn.Module]) -> Iterator[str]:
    """Paths that hold all that is old at or below ``path``; what has something new inside is noted in ``partly``."""
    if path in new:
        return
    if not any(each.startswith(f"{path}.") for each in new):
        yield path
        return
    part = root.get_submodule(path)
    partly.append(part)
    for name, _ in part.named_children():
        yield from _old(root, f"{path}.{name}", new, partly)


def _spec(model: nn.Module) -> zoo.ModelSpec:
    """How ultralytics makes this network: its class and its configuration, which holds classes and channels."""
    reference = f"{type(model).__module__}:{type(model).__qualname__}"
    return zoo.resolve(reference, {"cfg": getattr(model, "yaml", None), "verbose": False})


def guard() -> None:
    """Make ultralytics speak up where it would build an operated model anew, without its layers."""
    from ultralytics.engine.model import Model  # pyright: ignore[reportMissingImports]
    from ultralytics.nn.tasks import BaseModel  # pyright: ignore[reportMissingImports]

    train, load = Model.train, BaseModel.load

    @functools.wraps(train)
    def train_guarded(self: Any, trainer: Any = None, **kwargs: Any) -> Any:
        kind = trainer or self._smart_load("trainer")
        if is_operated(self.model):
            if getattr(kind, "get_model", train).__module__.startswith("ultralytics."):
                raise _would_be_lost(self.model, kind.__name__)
            # A trainer is given the model only where it came from a file; else it would start from the plain network.
            if issubclass(kind, OperatingTrainer):
                self.ckpt = self.ckpt or {"model": self.model}
        return train(self, trainer=trainer, **kwargs)

    @functools.wraps(load)
    def load_guarded(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        source = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
        if is_operated(source) and not is_operated(self):
            raise _would_be_lost(source, "DetectionTrainer")
        return load(self, weights, *args, **kwargs)

    Model.train, BaseModel.load = train_guarded, load_guarded


def _would_be_lost(model: Any, kind: str) -> InputError:
    count = sum(len(plan.edits) for part in model.modules() for plan in plans_of(part))
    edits = f"{count} edits" if count > 1 else "one edit"
    return InputError(
        f"ultralytics builds this network anew from its configuration, without the {edits} of the operation",
        where=type(model).__name__,
        remedy=f"train with trainer=sesurgery.integrations.ultralytics.trainer({kind}, recipe=...)",
    )
