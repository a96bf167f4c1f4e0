"""Squeeze-and-excitation, and other surgery, at chosen places of any network.

    surgery = sesurgery.apply(model, "standard", stages="4")
    surgery.model, surgery.plan, surgery.before, surgery.after
    sesurgery.revert(surgery.model)

Importing the package does not import torch; the first use of a name that needs it does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sesurgery.api import Surgery as Surgery
    from sesurgery.api import apply as apply
    from sesurgery.api import inspect as inspect
    from sesurgery.api import places as places
    from sesurgery.api import plan as plan
    from sesurgery.api import plans_of as plans_of
    from sesurgery.api import revert as revert
    from sesurgery.artifact.save_load import load as load
    from sesurgery.artifact.save_load import revert_folder as revert_folder
    from sesurgery.artifact.save_load import save as save
    from sesurgery.comparison.compare import compare as compare
    from sesurgery.drawing.block import draw as draw
    from sesurgery.errors import ArtifactError as ArtifactError
    from sesurgery.errors import FrozenValueError as FrozenValueError
    from sesurgery.errors import InputError as InputError
    from sesurgery.errors import ModelError as ModelError
    from sesurgery.errors import NothingMatchedError as NothingMatchedError
    from sesurgery.errors import RecipeError as RecipeError
    from sesurgery.errors import StalePlanError as StalePlanError
    from sesurgery.errors import SurgeryError as SurgeryError
    from sesurgery.errors import UnknownNameError as UnknownNameError
    from sesurgery.errors import WeightsError as WeightsError
    from sesurgery.excitation.measure import gates as gates
    from sesurgery.excitation.result import Gates as Gates
    from sesurgery.export.eject import eject as eject
    from sesurgery.integrations.timm_models import register as register
    from sesurgery.plans import Cost as Cost
    from sesurgery.plans import Edit as Edit
    from sesurgery.plans import Inspection as Inspection
    from sesurgery.plans import Plan as Plan
    from sesurgery.plans import Skip as Skip
    from sesurgery.recipe.recipe import list_recipes as list_recipes
    from sesurgery.recipe.recipe import load_recipe as load_recipe
    from sesurgery.recipe.rules import Insert as Insert
    from sesurgery.recipe.rules import Recipe as Recipe
    from sesurgery.recipe.rules import Remove as Remove
    from sesurgery.recipe.rules import Replace as Replace
    from sesurgery.recipe.rules import Rewire as Rewire
    from sesurgery.recipe.rules import Rule as Rule
    from sesurgery.recipe.where import Where as Where
    from sesurgery.selection.search import search as search
    from sesurgery.timing.latency import latency as latency
    from sesurgery.timing.result import Latency as Latency
    from sesurgery.verification.result import Verification as Verification
    from sesurgery.verification.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "artifact.save_load": ("load", "revert_folder", "save"),
    "comparison.compare": ("compare",),
    "drawing.block": ("draw",),
    "errors": (
        "ArtifactError",
        "FrozenValueError",
        "InputError",
        "ModelError",
        "NothingMatchedError",
        "RecipeError",
        "StalePlanError",
        "SurgeryError",
        "UnknownNameError",
        "WeightsError",
    ),
    "excitation.measure": ("gates",),
    "excitation.result": ("Gates",),
    "export.eject": ("eject",),
    "integrations.timm_models": ("register",),
    "plans": ("Cost", "Edit", "Inspection", "Plan", "Skip"),
    "recipe.recipe": ("list_recipes", "load_recipe"),
    "recipe.rules": ("Insert", "Recipe", "Remove", "Replace", "Rewire", "Rule"),
    "recipe.where": ("Where",),
    "timing.latency": ("latency",),
    "timing.result": ("Latency",),
    "selection.search": ("search",),
    "verification.result": ("Verification",),
    "verification.verify": ("verify",),
    "api": ("Surgery", "apply", "inspect", "places", "plan", "plans_of", "revert"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in ("attention", "extend", "integrations", "training"):  # used by their names: sesurgery.extend.placement
        return import_module(f"sesurgery.{name}")
    if name not in _HOME:
        raise AttributeError(f'module "sesurgery" has no attribute "{name}"')
    value = getattr(import_module(f"sesurgery.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
