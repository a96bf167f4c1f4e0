"""Recipes: from a name, a file or a mapping to a checked :class:`Recipe`, and back to plain data. No torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sesurgery.attention import registry as catalogue
from sesurgery.errors import InputError, RecipeError, UnknownNameError
from sesurgery.recipe import safe_yaml as yaml_reader
from sesurgery.recipe.error_messages import problems_of
from sesurgery.recipe.rules import ACTIONS, Insert, Recipe, Remove, Replace, Rewire, Rule, recipe_model
from sesurgery.recipe.selectors import check_stages_syntax
from sesurgery.words.text import shown
from sesurgery.words.user_code import load_plugins

__all__ = [
    "Insert",
    "Recipe",
    "Remove",
    "Replace",
    "Rewire",
    "Rule",
    "check_file",
    "json_schema",
    "list_recipes",
    "load_recipe",
    "override",
    "parse_recipe",
    "parse_setting",
    "recipe_folder",
    "recipe_names",
    "recipe_text",
    "schema_text",
    "to_data",
]

_SUFFIXES = (".yaml", ".yml")
_MAX_ITEMS = 100


def recipe_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or beside it in a checkout."""
    # Not importlib.resources: it costs 9 ms and serves zipped packages, in which torch does not run either.
    shipped = Path(__file__).parents[1] / "_recipes"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def list_recipes() -> list[Recipe]:
    """Every shipped recipe, sorted by name."""
    return [load_recipe(name) for name in recipe_names()]


def load_recipe(ref: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """A recipe by its shipped name, from a file, or from plain data (the inverse of :func:`to_data`).

    Args:
        ref: a text is a file where it ends in .yaml or .yml or holds a path separator, else a name.

    Raises:
        UnknownNameError: no shipped recipe has that name.
        RecipeError: it is no recipe; ``problems`` holds all that is wrong.
    """
    if isinstance(ref, Recipe):
        return ref
    if isinstance(ref, Mapping):
        return _validated(ref, "recipe", "unnamed")
    if isinstance(ref, Path) or (isinstance(ref, str) and _is_path(ref)):
        return check_file(ref)
    if not isinstance(ref, str):
        raise InputError(f"a {type(ref).__name__} is no recipe", remedy="give a name, a path, a mapping or a Recipe")
    path = _shipped(ref)
    return _validated(yaml_reader.read(path, f"recipes/{path.name}"), f"recipes/{path.name}", path.stem)


def check_file(path: str | Path) -> Recipe:
    """Read a recipe file. Raises ``RecipeError`` with everything that is wrong with it."""
    source = shown(path, 200)
    return _validated(yaml_reader.read(Path(path), source), source, shown(Path(path).stem, 99) or "unnamed")


def parse_recipe(text: str | bytes, source: str = "recipe") -> Recipe:
    """A recipe from YAML text; ``source`` is what messages call it. Raises ``RecipeError``."""
    return _validated(yaml_reader.read(text, source), source, "unnamed")


def recipe_text(ref: str | Path) -> str:
    """The YAML text of a recipe, comments included. Raises like :func:`load_recipe`."""
    load_recipe(ref)
    path = Path(ref) if isinstance(ref, Path) or _is_path(ref) else _shipped(ref)
    return path.read_text(encoding="utf-8-sig")


def to_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data for JSON or YAML; ``load_recipe`` gives it back, equal."""
    return recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors; ``docs/recipe-schema.json`` is this."""
    schema = recipe_model().model_json_schema(by_alias=True)
    schema["required"] = ["rules"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sesurgery recipe", **schema}


def schema_text() -> str:
    """The text of ``docs/recipe-schema.json``; ``python -m sesurgery.recipe > docs/recipe-schema.json`` renews it."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def parse_setting(text: str) -> tuple[str, Any]:
    """``"reduction=8"`` as ``("reduction", 8)``; values are read as YAML, and as text where they are none.

    Raises:
        InputError: there is no ``=``, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f'"{shown(text)}" sets nothing', remedy="write KEY=VALUE, such as reduction=8")
    try:
        parsed = yaml_reader.read(value.strip(), key) if value.strip() else ""
    except RecipeError:
        parsed = value
    return key.strip(), value if isinstance(parsed, Mapping) else parsed


def override(
    recipe: Recipe,
    *,
    stages: str | int | None = None,
    module: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe with other stages, another node, or other options.

    Args:
        stages: takes the place of every rule's ``where.stages``.
        module: takes the place of every node. Options that it does not know are dropped with the old one, and those
            that only state the old one's default where the new one has a default of its own.
        options: settings of the nodes, or of a structural edit (``kernel=7``); each goes to every rule that knows it.

    Raises:
        UnknownNameError: a module that no registry holds, or an option that no rule knows.
        RecipeError, InputError: a value that will not do.
    """
    data = to_data(recipe)
    if stages is not None:
        for rule in data["rules"]:
            rule["where"] = {**rule.get("where", {}), "stages": check_stages_syntax(stages)}
    edits = [(rule.action, raw[rule.action]) for rule, raw in zip(recipe.rules, data["rules"], strict=True)]
    if module is not None:
        _swap(recipe, edits, module)
    if options:
        _set(recipe, edits, options)
    return _validated(data, f'recipe "{recipe.name}" with these options', recipe.name)


def _swap(recipe: Recipe, edits: list[tuple[str, dict[str, Any]]], module: str) -> None:
    name = catalogue.canonical(module)
    nodes = [edit for _, edit in edits if "module" in edit]
    if not nodes:
        raise InputError(f'recipe "{recipe.name}" inserts no node', where=f"module {name}", remedy="leave it out")
    for edit in nodes:
        kept = {key: edit[key] for key in edit if key == "name" or _stays(edit["module"], name, key, edit[key])}
        edit.clear()
        edit.update(kept, module=name)


def _stays(old: str, new: str, key: str, value: Any) -> bool:
    """Whether an option of the recipe outlives its node: not where it only states the default of the old node, and the
    new one has a default of its own, unless the two are one node by two implementations."""
    before, after = catalogue.entry(old).defaults.get(key), catalogue.entry(new).defaults.get(key)
    alike = catalogue.child_name(old) == catalogue.child_name(new)
    return not catalogue.check_options(new, {key: value}) and (alike or after is None or value != before)


def _set(recipe: Recipe, edits: list[tuple[str, dict[str, Any]]], options: Mapping[str, Any]) -> None:
    known = [(edit, _settable(action, edit)) for action, edit in edits]
    everything = sorted(frozenset[str]().union(*(keys for _, keys in known)))
    problems: list[str] = []
    for key, value in options.items():
        if key not in everything:
            raise UnknownNameError("option", shown(key), everything, where=_modules(edits), remedy=_options(everything))
        for edit, keys in known:
            if key in keys:
                edit[key] = value
                if "module" in edit and key != "name":
                    problems += catalogue.check_options(edit["module"], {key: value})
    if problems:
        raise RecipeError(f'options of recipe "{recipe.name}"', list(dict.fromkeys(problems)))


def _settable(action: str, edit: Mapping[str, Any]) -> frozenset[str]:
    if "module" in edit:
        return catalogue.entry(edit["module"]).accepted | {"name"}
    if action == "replace":
        convolution = {"kernel", "dilation", "stride"}
        return frozenset(
            convolution | {"embed"} if convolution & set(edit) else {*edit, *(["groups"] * ("norm" in edit))}
        )
    return frozenset(ACTIONS[action].keys.model_fields)


def _modules(edits: list[tuple[str, dict[str, Any]]]) -> str:
    return ", ".join(dict.fromkeys(f'module "{edit["module"]}"' if "module" in edit else name for name, edit in edits))


def _options(known: list[str]) -> str:
    return f"options are {', '.join(known)}" if known else "it takes no options"


def _is_path(text: str) -> bool:
    return text.endswith(_SUFFIXES) or "/" in text or os.sep in text


def _shipped(name: str) -> Path:
    names = recipe_names()
    for known in names:
        if known == name.strip().lower().replace("_", "-"):
            return recipe_folder() / f"{known}.yaml"
    remedy = "sesurgery recipes lists them; a file needs its path, such as ./mine.yaml"
    raise UnknownNameError("recipe", shown(name), names, remedy=remedy)


def _validated(data: Any, source: str, name: str) -> Recipe:
    if not isinstance(data, Mapping):
        raise RecipeError(source, ["a recipe is a mapping (key: value); it needs at least rules:"])
    plain = _plain(data, source)
    if plain.get("name") is None:
        plain["name"] = name
    model = recipe_model()
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        broken = load_plugins()
        if recipe_model() is not model:
            return _validated(data, source, name)
        raise RecipeError(source, [*problems_of(error, plain), *broken]) from None


def _plain(value: Any, source: str, depth: int = 0) -> Any:
    """A copy made of dicts, lists and scalars alone, so that nothing a caller holds can change a recipe later."""
    if depth > yaml_reader.MAX_DEPTH:
        raise RecipeError(source, [f"nested deeper than {yaml_reader.MAX_DEPTH} levels; a recipe needs five"])
    if isinstance(value, (Mapping, list, tuple)) and len(value) > _MAX_ITEMS:
        raise RecipeError(source, [f"a list or mapping with more than {_MAX_ITEMS} entries; is this the right file?"])
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise RecipeError(source, [f"the key {shown(bad[0])} is no text; every key is a word"])
        return {key: _plain(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, source, depth + 1) for item in value]
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise RecipeError(source, [f"a {type(value).__name__} is no plain data; use text, numbers, lists and mappings"])


if __name__ == "__main__":
    print(schema_text(), end="")
