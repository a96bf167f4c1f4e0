"""What each shipped recipe would do to a model, from one look at it."""

from __future__ import annotations

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.driver import plan_step
from sesurgery.errors import InputError
from sesurgery.planning.planner import Progress
from sesurgery.plans import Edit, RecipeCost
from sesurgery.recipe.recipe import list_recipes
from sesurgery.recipe.rules import Recipe
from sesurgery.tracing.trace import LOCK


def recipe_costs(anatomy: Anatomy, progress: Progress | None = None) -> tuple[RecipeCost, ...]:
    """Edits, parameters and MACs that each shipped recipe adds; recipes without a place in the model are left out.

    The rules of a recipe are looked at one by one on the model as it is, and a place that two of them name counts
    once. What an edit changes behind it (a stride, a narrower stage) is counted where it is made.
    """
    rows: list[RecipeCost] = []
    recipes = list_recipes()
    for number, recipe in enumerate(recipes):
        if progress is not None:
            progress(f"trying {recipe.name}", number, len(recipes))
        edits = _edits(anatomy, recipe)
        if edits:
            params, macs = sum(edit.params for edit in edits), sum(edit.macs for edit in edits)
            rows.append(RecipeCost(recipe.name, len(edits), params, macs))
    return tuple(rows)


def _edits(anatomy: Anatomy, recipe: Recipe) -> list[Edit]:
    edits: dict[str, Edit] = {}
    for number, rule in enumerate(recipe.rules):
        try:
            with LOCK:
                step = plan_step(anatomy, rule, number)
        except InputError:  # a stage that the model does not have
            continue
        for edit in step.edits:
            edits.setdefault(edit.path, edit)
    return list(edits.values())
