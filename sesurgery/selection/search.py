"""``sesurgery.search``: the best subset of sites under a budget, from one training, checked by others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sesurgery.api import RecipeLike, plan, recipe_for
from sesurgery.comparison.budget import Limit, written
from sesurgery.comparison.budget import budget as budget_of
from sesurgery.comparison.compare import compare
from sesurgery.errors import InputError
from sesurgery.planning.planner import Progress
from sesurgery.plans import Edit, Insertion, Plan
from sesurgery.recipe.recipe import to_data
from sesurgery.recipe.rules import Recipe
from sesurgery.selection.choice import chosen
from sesurgery.selection.ranking import Judge, ranked
from sesurgery.selection.result import Selection, Value, in_order
from sesurgery.trials.models import Source
from sesurgery.trials.training import Run, TrainingOptions, training_function
from sesurgery.words.paths import join

SITE_COSTS = ("params", "macs")


def search(
    model: str | nn.Module,
    recipe: RecipeLike = "standard",
    *,
    budget: str | Mapping[str, Any],
    train: str | Run,
    validate: str | Run | None = None,
    folder: str | Path,
    module: str | None = None,
    options: Mapping[str, Any] | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    aim: str = "value",
    smaller: bool = False,
    repeats: int = 5,
    subsets: int = 3,
    jobs: int = 1,
    storage: str | None = None,
    example_input: Any = None,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    progress: Progress | None = None,
) -> Selection:
    """Choose among all sites of a recipe those that are worth most within a budget.

    One training with layers at all sites, each switched on and off at random step by step, ranks them: each site is
    judged on the validation by leaving its layer out and by having it alone, batch norms with statistics of what runs
    then, which takes one validation more. A knapsack chooses. Then the chosen sites, all sites and random subsets of
    about the same cost are trained from scratch by :func:`sesurgery.compare`, so that the ranking is judged and not
    believed.

    Args:
        model: as in :func:`sesurgery.compare`, like the inputs, ``model_args`` and ``pretrained``.
        recipe: whose sites, and with what layer; of one rule that inserts.
        budget: ``"params=+2%,macs=+1%"``.
        train: ``"train.py:run"``, or ``run(model, trial)``, which trains and gives a number.
        validate: ``validate(model, trial)`` gives how good a model is; left out, the ``validate`` of the same file.
        folder: where the results of the check are kept.
        module: another layer.
        options: of the layer.
        seeds: trainings of each candidate of the check; 0 leaves it out.
        repeats: validations of each setting, with ``trial.seed`` 0, 1, …; their spread is the noise.
        subsets: random subsets in the check.

    Raises:
        NothingMatchedError: the recipe has no site, or none is worth something within the budget.
        InputError: bad input, or a training that failed.
    """
    limits = _limits(budget)
    wanted = recipe_for(recipe, None, module, options or {})
    seen = {"example_input": example_input, "input_size": input_size}
    asked: dict[str, Any] = {**seen, "model_args": model_args}
    sites = _checked(plan(model, wanted, **asked))
    source = Source(model, dict(model_args or {}), pretrained, {"all": to_data(wanted)}, seen)
    judge = Judge(training_function(train), _validation(train, validate), aim, smaller, epochs, repeats)
    values = ranked(source("all", 0), [edit.path for edit in sites.edits], judge, 0, _reporting(progress))
    picked = _picked(sites, values, limits)
    recipes = _recipes(wanted, sites.edits, picked, subsets, lambda data: plan(model, data, **asked))
    trainings: TrainingOptions = {"train": train, "seeds": seeds, "epochs": epochs, "aim": aim, "smaller": smaller}
    trainings |= {"jobs": jobs, "folder": folder, "storage": storage}
    check = compare(model, recipes, pretrained=pretrained, progress=progress, **trainings, **asked) if seeds else None
    paths = tuple(sites.edits[index].path for index in picked)
    return Selection(sites.model, recipes[0], sites.edits, in_order(values), paths, check, written(limits))


def _reporting(progress: Progress | None) -> Callable[[int, int], None]:
    return lambda done, total: None if progress is None else progress("judging the sites", done, total)


def _limits(given: str | Mapping[str, Any]) -> tuple[Limit, ...]:
    limits = budget_of(given)
    if not limits:
        raise InputError("a search needs a budget", where="budget", remedy="such as params=+2%")
    for limit in limits:
        if limit.measure not in SITE_COSTS:
            problem = f"{limit.measure} of a single site is not known"
            raise InputError(problem, where="budget", remedy=f"use {' or '.join(SITE_COSTS)}")
    return limits


def _checked(sites: Plan) -> Plan:
    if not all(isinstance(edit.change, Insertion) for edit in sites.edits):
        raise InputError("its layers do not only come in", where="recipe", remedy="give a recipe of one insert rule")
    if len({edit.step for edit in sites.edits}) > 1:
        raise InputError("it has several rules", where="recipe", remedy="give a recipe of one insert rule")
    return sites


def _validation(train: str | Run, validate: str | Run | None) -> Run:
    if validate is not None:
        return training_function(validate)
    if not isinstance(train, str):
        raise InputError("no validation is given", where="validate", remedy="def validate(model, trial): ...")
    return training_function(train.rpartition(":")[0] + ":validate")


def _picked(sites: Plan, values: Mapping[str, Value], limits: Sequence[Limit]) -> list[int]:
    assert sites.before is not None
    costs = {name: [float(getattr(edit, name)) for edit in sites.edits] for name in SITE_COSTS}
    room = {limit.measure: limit.room(float(getattr(sites.before, limit.measure))) for limit in limits}
    return chosen([values[edit.path].mean for edit in sites.edits], costs, room)


def _recipes(
    recipe: Recipe, edits: Sequence[Edit], picked: Sequence[int], count: int, planned: Callable[[dict[str, Any]], Plan]
) -> list[dict[str, Any]]:
    """The chosen sites, random ones and all, as recipes of their own, which reach these sites and no others."""
    subsets = {"chosen": picked, **_subsets(edits, picked, count)}
    recipes = [narrowed(recipe, edits, indices, name) for name, indices in subsets.items()]
    for data, indices in zip(recipes, subsets.values(), strict=True):
        if _sites_of(planned(data).edits) != _sites_of([edits[index] for index in indices]):
            problem = "some of its sites cannot be told apart by path"
            raise InputError(problem, where="recipe", remedy="give one whose sites lie in hosts of their own")
    return [*recipes, {**to_data(recipe), "name": "all-sites"}]


def _subsets(edits: Sequence[Edit], picked: Sequence[int], count: int) -> dict[str, list[int]]:
    """Random subsets that cost about as many parameters as the chosen one, and no more."""
    draw, most = random.Random(0), sum(edits[index].params for index in picked)
    subsets: dict[str, list[int]] = {}
    for number in range(1, count + 1):
        order = list(range(len(edits)))
        draw.shuffle(order)
        subset: list[int] = []
        for index in order:
            if sum(edits[other].params for other in subset) + edits[index].params <= most:
                subset.append(index)
        if subset and sorted(subset) not in [sorted(picked), *subsets.values()]:
            subsets[f"random-{number}"] = sorted(subset)
    return subsets


def narrowed(recipe: Recipe, edits: Sequence[Edit], indices: Sequence[int], name: str) -> dict[str, Any]:
    """A recipe for some of its sites only, by path, as data: by the path of the layer, or, where a host has several
    whose names depend on which are chosen, of what the layer follows."""
    data = to_data(recipe)
    rule = data["rules"][0]
    hosts = Counter(edit.host for edit in edits)

    def path(edit: Edit) -> str:
        value = getattr(edit.change, "value", None)
        return edit.path if hosts[edit.host] == 1 or value is None else join(edit.host, value)

    paths = [path(edits[index]) for index in indices]
    return {**data, "name": name, "rules": [{**rule, "where": {**rule.get("where", {}), "path": paths}}]}


def _sites_of(edits: Sequence[Edit]) -> set[tuple[str, Any]]:
    """Where layers go, whatever they are called."""
    return {(edit.host, getattr(edit.change, "value", edit.path)) for edit in edits}
