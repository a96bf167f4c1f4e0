"""What pydantic found wrong, said as a recipe's author would understand it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sesurgery.errors import either, nearest
from sesurgery.recipe.rules import ACTIONS, action_problem, recipe_model
from sesurgery.words.text import shown

_KINDS = {
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
MAX_PROBLEMS = 50
_QUOTED = re.compile(r"'([^']*)'")
_MISSING = {
    "at": "is missing; say where, such as at: before residual add",
    "rules": "is missing; a recipe needs at least one rule",
    "module": "is missing; name a node, such as module: se",
    "to": "is missing; write to: csp",
}


def problems_of(error: ValidationError, data: Any) -> list[str]:
    """Every problem, each as ``rules[0].at: "before residul add"; did you mean "before residual add"?``."""
    listed = error.errors(include_url=False)
    if isinstance(data, Mapping) and data.get("rules"):
        # Rules that will not do do not count as rules for pydantic; to their author the list is not empty.
        listed = [details for details in listed if details["type"] != "too_short"]
    problems = [_problem(details) for details in listed]
    problems = list(dict.fromkeys([*problems, *_rule_problems(data, problems)]))
    more = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], f"and {more} more; mend these first"] if more > 0 else problems


def place(loc: tuple[int | str, ...]) -> str:
    """``("rules", 0, "at")`` as ``rules[0].at``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in loc)
    return text.removeprefix(".") or "recipe"


def _problem(details: Any) -> str:
    loc, kind, given = details["loc"], details["type"], details["input"]
    if kind == "extra_forbidden":
        known = known_keys(loc[:-1])
        near = nearest(str(loc[-1]), known, count=1)
        hint = f"did you mean {either(near)}?" if near else f"known keys: {', '.join(known)}"
        return f"{place(loc)}: unknown key; {hint}"
    if kind == "missing":
        return f"{place(loc)}: {_MISSING.get(str(loc[-1]), 'is missing; add it')}"
    if kind == "value_error":
        return f"{place(loc)}: {details['ctx']['error']}"
    if kind == "recipe":
        return f"{place(loc)}: {details['ctx']['text']}"
    if kind == "literal_error":
        return f"{place(loc)}: {_not_one_of(given, _QUOTED.findall(details['ctx']['expected']))}"
    if kind in _KINDS:
        return f"{place(loc)}: expected {_KINDS[kind]}, not {_described(given)}"
    if kind == "too_short":
        return f"{place(loc)}: is empty; a recipe needs at least one rule"
    message = details["msg"].replace("Input should", "it should").replace("String should", "the text should")
    return f"{place(loc)}: {_described(given)} will not do; {message}"


def _not_one_of(given: object, values: list[str]) -> str:
    near = nearest(given, values, count=1) if isinstance(given, str) else ()
    hint = f"did you mean {either(near)}?" if near else f"expected {either(values)}"
    return f"{_described(given)} is not known; {hint}"


def _described(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'"{shown(value)}"'
    if isinstance(value, (bool, float)):
        return str(value).lower()
    if isinstance(value, int):
        return shown(value)
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else "this"


def known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the model at ``loc`` takes, as a recipe writes them."""
    model: type[BaseModel] | None = recipe_model()
    for part in loc:
        if isinstance(part, str) and model is not None:
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model_in(fields[part].annotation) if part in fields else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _rule_problems(data: Any, reported: list[str]) -> list[str]:
    """What pydantic only checks once every key of a rule is right; a misspelt action is not also a missing one."""
    rules = data.get("rules") if isinstance(data, Mapping) else None
    problems: list[str] = []
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, Mapping):
            given = [name for name in ACTIONS if name in rule]
            misspelt = any(text.startswith(f"rules[{index}].") and "unknown key" in text for text in reported)
            problem = action_problem(given)
            if problem and (given or not misspelt):
                problems.append(f"rules[{index}]: {problem}")
    return problems
