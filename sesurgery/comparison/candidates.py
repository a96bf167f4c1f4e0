"""The grid of a comparison: recipes, stages, layers and options, as candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any

from sesurgery.attention import registry as catalogue
from sesurgery.errors import InputError
from sesurgery.recipe.recipe import load_recipe, parse_setting
from sesurgery.recipe.rules import Recipe
from sesurgery.recipe.selectors import check_stages_syntax

OWN = ""  # a candidate's stages, where the recipe says them itself
RecipeLike = str | Path | Mapping[str, Any] | Recipe


@dataclass(frozen=True)
class Candidate:
    """One operation of a grid.

    Attributes:
        recipe: the recipe, before the other attributes change it.
        stages: what stands in the place of its stages; empty: its own.
        module: the layer in the place of its own, if another.
        options: options of the layer or of the structural edit.
    """

    recipe: Recipe
    stages: str = OWN
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``standard se reduction=8, stage 3``: what a person calls it."""
        settings = (f"{key}={value}" for key, value in self.options.items())
        words = " ".join(filter(None, (self.recipe.name, self.module, *settings)))
        return f"{words}, stages {self.stages}" if self.stages != OWN else words


@dataclass(frozen=True)
class Grid:
    """What is to be compared: every combination of these.

    Attributes:
        stages: ``each`` (one candidate a stage), ``subsets`` (every set of stages), or any selection such as ``all``,
            ``2-4`` or ``1+3`` (a plus where a recipe has a comma).
        options: the values to try, by option.
    """

    recipes: tuple[Recipe, ...]
    stages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def candidates(self, stages: int) -> Iterator[Candidate]:
        """Every combination, for a model of so many stages."""
        wanted = list(dict.fromkeys(item for text in self.stages for item in _spelt_out(text, stages))) or [OWN]
        for recipe, module, values in product(self.recipes, self.modules or (None,), product(*self.options.values())):
            for selection in wanted:
                yield Candidate(recipe, selection, module, dict(zip(self.options, values, strict=True)))


def grid(
    recipes: RecipeLike | Sequence[RecipeLike],
    stages: str | int | Sequence[str | int] | None,
    modules: str | Sequence[str] | None,
    options: Mapping[str, Any] | None,
) -> Grid:
    """A grid from what a user gives: lists, or texts with commas.

    Raises:
        InputError: a name, a selection of stages or an option that will not do.
    """
    names = [recipes] if isinstance(recipes, (Path, Mapping, Recipe)) else items(recipes)
    if not names:
        raise InputError("nothing to compare", where="recipes", remedy="name recipes, such as standard,pre,post")
    values = {key: tuple(_value(key, item) for item in items(given)) for key, given in (options or {}).items()}
    for key, tried in values.items():
        if not tried:
            raise InputError("no value to try", where=key, remedy=f"such as {key}=4,8")
    return Grid(
        recipes=tuple(load_recipe(name) for name in names),
        stages=tuple(_checked(item) for item in items(stages)),
        modules=tuple(catalogue.canonical(str(item)) for item in items(modules)),
        options=values,
    )


def items(value: Any) -> list[Any]:
    """A list, or a text with commas, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _value(key: str, item: Any) -> Any:
    """A text as the number, truth value or word that it says."""
    return parse_setting(f"{key}={item}")[1] if isinstance(item, str) else item


def _checked(item: str | int) -> str:
    text = str(item).strip()
    return text if text in ("each", "subsets") else check_stages_syntax(text.replace("+", ","))


def _spelt_out(text: str, stages: int) -> Iterator[str]:
    numbers = [str(number) for number in range(1, stages + 1)]
    if text == "each":
        yield from numbers
    elif text == "subsets":
        for size in range(1, stages + 1):
            yield from (",".join(chosen) for chosen in combinations(numbers, size))
    else:
        yield text
