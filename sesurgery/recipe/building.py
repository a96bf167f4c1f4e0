"""Recipes, rules and conditions built in Python: what is wrong with them is said as it is of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from sesurgery.errors import RecipeError, either, nearest


def built(model: BaseModel, given: Mapping[str, Any]) -> None:
    """Fill a new model with what a constructor was given. Raises ``RecipeError`` with all that is wrong."""
    try:
        model.__pydantic_validator__.validate_python(given, self_instance=model)
    except ValidationError as error:
        # The file of messages knows the rules, and the rules are built by this one.
        problems = import_module("sesurgery.recipe.error_messages").problems_of(error, given)
        unknown = list(_unknown(type(model), given))
        known = [problem for problem in problems if ": unknown key; " not in problem]
        raise RecipeError(type(model).__name__, [*(known if unknown else problems), *unknown]) from None


def _unknown(model: type[BaseModel], given: Mapping[str, Any]) -> Iterator[str]:
    keys = [field.alias or name for name, field in model.model_fields.items()]
    if model.model_config.get("extra") == "forbid":
        for key in given:
            if key not in keys:
                near = nearest(key, keys, count=1)
                yield f"{key}: unknown key; " + (
                    f"did you mean {either(near)}?" if near else f"known: {', '.join(keys)}"
                )


def constructor(init: Any) -> Any:
    """Marks an ``__init__`` that only Python calls: pydantic fills what it reads from files without it."""
    init.__pydantic_base_init__ = True
    return init
