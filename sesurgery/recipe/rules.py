"""What a recipe may say, as frozen pydantic models: one small class per kind of edit. No torch."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Required, TypedDict, Unpack

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sesurgery.attention import registry as catalogue
from sesurgery.attention.options import ACTIVATIONS, RULES
from sesurgery.errors import InputError, UnknownNameError, either, nearest
from sesurgery.recipe.building import built, constructor
from sesurgery.recipe.phrases import ORDINALS, PHRASES, ROLES, At, parse_at, phrase_names
from sesurgery.recipe.where import Where, as_value_error, says
from sesurgery.words.registry import Registry

CHANGES = ("kernel", "dilation", "activation", "norm", "module", "stride")
NORMS = ("batch", "group", "layer", "instance")
# What replace may name, by the key of what it changes; "module" names any layer.
_TARGETS = {
    "module": ("attention", "conv", "linear", "norm", "activation", "module"),
    "activation": ("activation", "module"),
    "norm": ("norm", "module"),
    "conv": ("conv", "module"),
}
_PARTS = ("conv", "linear", "attention", "activation", "norm", "module")


def _identifier(value: Any) -> Any:
    if isinstance(value, str) and not (value.isidentifier() and value.isascii() and len(value) <= 60):
        raise ValueError(f'"{value:.60}" cannot be the name of a module; use letters, digits and _')
    if isinstance(value, str) and (keyword.iskeyword(value) or value.startswith("__")):
        raise ValueError(f'"{value}" is taken by Python; choose another name')
    return value


def _at(value: Any) -> At:
    return value if isinstance(value, At) else parse_at(value)


def _at_schema() -> dict[str, Any]:
    counted = "|".join(phrase.name for phrase in PHRASES.values() if phrase.ordinal)
    which = "|".join((*ORDINALS, "last", "-?[1-9][0-9]*", "[1-9][0-9]*(st|nd|rd|th)"))
    kinds = "|".join(dict.fromkeys(At(phrase.name).layer for phrase in PHRASES.values() if phrase.ordinal))
    patterns = (
        f"^({counted})( [(]?-?[1-9][0-9]*[)]?)?(,? bare)?$",
        f"^((after|before|on) )?(the )?(block's )?({which}) ({kinds})(,? bare)?$",
    )
    spelt = [{"type": "string", "pattern": pattern} for pattern in patterns]
    summaries = [phrase.summary for phrase in PHRASES.values()]
    meanings = "\n".join(f"{phrase.name}: {phrase.summary}" for phrase in PHRASES.values())
    names = {"enum": list(PHRASES), "enumDescriptions": summaries}
    return {"description": f"Where, or on what.\n{meanings}", "anyOf": [names, *spelt]}


class _KnownPhrases:
    """Makes the JSON schema of a phrase when it is asked for, so that it knows the phrases registered by then."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return _at_schema()


Phrase = Annotated[At, PlainValidator(as_value_error(_at)), PlainSerializer(str), _KnownPhrases()]
NodeName = Annotated[str, BeforeValidator(_identifier)]
Activation = Annotated[str, WithJsonSchema({"enum": list(ACTIVATIONS)})]


def _in_a_line(schema: dict[str, Any]) -> None:
    """Editors show what a thing is, and not how it is built in Python."""
    if "description" in schema:  # that of a user's own class may be missing
        schema["description"] = schema["description"].partition("\n")[0]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_in_a_line)

    @constructor
    def __init__(self, **keys: Any) -> None:
        built(self, keys)


def _with_options(schema: dict[str, Any]) -> None:
    """Names of all nodes and their options, for editors."""
    nodes = [catalogue.entry(name) for name in catalogue.names()]
    summaries = {node.name: node.summary for node in nodes}
    summaries |= {alias: f"short for {name}" for alias, name in catalogue.ALIASES.items()}
    properties = schema["properties"]
    kept = {key: value for key, value in properties["module"].items() if key in ("description", "title")}
    properties["module"] = kept | {"enum": list(summaries), "enumDescriptions": list(summaries.values())}
    for key in sorted(frozenset[str]().union(*(node.accepted for node in nodes))):
        takers = ", ".join(node.name for node in nodes if key in node.accepted)
        rule = RULES.get(key)
        properties.setdefault(key, {"description": f"Of {takers}.", **({} if rule is None else rule.schema())})


class _WithOptions(BaseModel):
    """Keys beyond the fields are options of the node, checked by its registry entry."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_with_options)

    @constructor
    def __init__(self, **keys: Any) -> None:
        built(self, keys)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the node as the recipe gives them (``reduce_from`` and ``act: inherit`` unresolved)."""
        return dict(self.model_extra or {})


class Insert(_WithOptions):
    """Put a node of the registry at the place. Other keys are the node's options: reduction, gate, act, init, ..."""

    module: str = Field(description="Name of the node in the registry: se, eca, cbam, ...")
    name: NodeName | None = Field(
        default=None, description="Attribute name of the node in its host; chosen where left out."
    )

    @model_validator(mode="after")
    def _known(self) -> Insert:
        _check_node(self.module, self.options)
        return self


class Replace(_WithOptions):
    """Exchange what ``at`` names: a conv's kernel, dilation or stride, the activation, the norm, or the node itself."""

    kernel: int | None = Field(default=None, strict=True, ge=1, le=63, description="New kernel size, odd.")
    dilation: int | None = Field(default=None, strict=True, ge=1, le=32, description="New dilation.")
    stride: int | None = Field(default=None, strict=True, ge=1, le=16, description="New stride.")
    embed: bool = Field(
        default=True, strict=True, description="Copy old weights so that the function is kept where it can be."
    )
    activation: Activation | None = Field(default=None, description="New activation: silu, relu, gelu, ...")
    norm: Literal["batch", "group", "layer", "instance"] | None = Field(default=None, description="New normalisation.")
    groups: int | None = Field(
        default=None, strict=True, ge=1, le=65536, description="Groups of a group norm; of a module, its option."
    )
    module: str | None = Field(
        default=None, description="Node of the registry to put in place; other keys are its options."
    )
    name: NodeName | None = Field(default=None, description="Attribute name of that node; the old one where left out.")

    @property
    def options(self) -> dict[str, Any]:
        """Options of the node as the recipe gives them."""
        groups = {} if self.groups is None or self.module is None else {"groups": self.groups}
        return {**super().options, **groups}

    @property
    def target(self) -> str:
        """What changes: ``conv`` (kernel, dilation, stride), ``activation``, ``norm`` or ``module``."""
        if self.module is not None:
            return "module"
        return "activation" if self.activation is not None else "norm" if self.norm is not None else "conv"

    @model_validator(mode="after")
    def _one_change(self) -> Replace:
        given = [key for key in CHANGES if getattr(self, key) is not None]
        if not given or (len(given) > 1 and not set(given) <= {"kernel", "dilation", "stride"}):
            raise ValueError(f"needs one of {', '.join(CHANGES)}; {', '.join(given) or 'none'} given")
        if self.module is not None:
            _check_node(self.module, self.options)
        extra = () if self.module is not None else self.model_extra or ()
        problems = [(key, _unknown_key(key, Replace.model_fields)) for key in extra]
        if self.kernel is not None and self.kernel % 2 == 0:
            problems.append(("kernel", f"{self.kernel} is even and would shift the map; use {self.kernel + 1}"))
        if self.activation is not None and self.activation not in ACTIVATIONS:
            problems.append(("activation", _unknown_word(self.activation, ACTIVATIONS)))
        if self.target != "conv" and "embed" in self.model_fields_set:
            problems.append(("embed", "only kernel and dilation have weights to embed; leave it out"))
        if self.groups is not None and self.module is None and self.norm != "group":
            problems.append(("groups", "only a group norm has groups; write norm: group, or leave it out"))
        if self.module is None and self.name is not None:
            problems.append(("name", "only a module takes a name; leave it out"))
        _raise(problems)
        return self


class Remove(_Model):
    """Take what ``at`` names out of the graph: a layer, or any gate however it is written."""

    with_norm: bool = Field(default=False, strict=True, description="Take the norm that follows a conv out with it.")


class Rewire(_Model):
    """Give a stage another shape."""

    to: Literal["csp"] = Field(description="csp: a part of the input goes through the blocks, the rest around; concat.")
    split: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the input channels that goes through the blocks."
    )
    rebuild: Literal["half width", "same width"] = Field(
        default="half width", description="Width of the blocks inside, against what they were."
    )


@dataclass(frozen=True)
class Action:
    """A key of a rule that says what to do.

    Attributes:
        name: the key.
        keys: what may stand behind it.
        roles: which phrases ``at:`` may name with it.
    """

    name: str
    keys: type[BaseModel]
    roles: tuple[str, ...]


ACTIONS: Registry[Action] = Registry("action")
for _name, _keys, *_roles in (
    ("insert", Insert, "place"),
    ("replace", Replace, *_PARTS),
    ("remove", Remove, *_PARTS),
    ("rewire", Rewire, "stage"),
):
    ACTIONS.add(_name, Action(_name, _keys, tuple(_roles)))


class _RuleKeys(TypedDict, total=False):
    """The keywords of :class:`Rule`, as type checkers are to know them."""

    insert: Insert | str
    replace: Replace
    remove: Remove
    rewire: Rewire
    at: Required[str | At]
    where: Where
    if_present: Literal["refuse", "stack", "replace"]


class Rule(_Model):
    """One sentence: do this, at that place, where these conditions hold.

    >>> Rule(insert=Insert(module="eca"), at="before residual add", where=Where(stages="3-4"))

    ``insert="eca"`` is short for ``insert=Insert(module="eca")``. Raises ``RecipeError`` with all that is wrong.
    """

    @constructor
    def __init__(self, **keys: Unpack[_RuleKeys]) -> None:
        given: dict[str, Any] = dict(keys)
        if isinstance(given.get("insert"), str):
            given["insert"] = {"module": given["insert"]}
        built(self, given)

    insert: Insert | None = None
    replace: Replace | None = None
    remove: Remove | None = None
    rewire: Rewire | None = None
    at: Phrase
    where: Where = Field(default=Where(), description="Narrows the rule.")
    if_present: Literal["refuse", "stack", "replace"] = Field(
        default="refuse", description="What to do where attention is already at that place."
    )

    @property
    def action(self) -> str:
        """``insert``, ``replace``, ``remove``, ``rewire``, or an action of the user's own."""
        return self._actions()[0]

    @property
    def edit(self) -> BaseModel:
        """What to do, as the recipe says it."""
        return getattr(self, self.action)

    @property
    def node(self) -> Insert | Replace | None:
        """The edit, where it brings a node of the registry (``module``, ``name`` and ``options``)."""
        edit = self.edit
        return edit if isinstance(edit, (Insert, Replace)) and edit.module is not None else None

    @model_validator(mode="before")
    @classmethod
    def _empty_remove(cls, data: Any) -> Any:
        # `remove:` with nothing behind it reads as a removal without options.
        if isinstance(data, Mapping) and "remove" in data and data["remove"] is None:
            return {**data, "remove": {}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if problem := action_problem(self._actions()):
            raise ValueError(problem)
        edit = self.edit
        roles = ACTIONS[self.action].roles
        if isinstance(edit, Replace):
            roles = _TARGETS[edit.target]
        if self.at.role not in roles:
            _raise([("at", _wrong_role(self.at, self.action, roles))])
        if isinstance(edit, Remove) and edit.with_norm and self.at.role not in ("conv", "linear", "module"):
            _raise([("remove.with_norm", f'"{self.at}" has no norm of its own; leave it out')])
        if self.at.layer == "module" and not (self.where.type or self.where.path or self.where.inside):
            _raise([("where", f'"{self.at}" is about every module; name those that are meant: where: {{type: ...}}')])
        return self

    @property
    def only_blocks(self) -> bool:
        """Whether a place of layers is meant in blocks alone: so it is unless ``where`` says by name what is meant."""
        where = self.where
        names = (where.blocks, where.type, where.inside, where.path, where.region)
        return self.at.of_blocks and not any(names)

    @property
    def place(self) -> At:
        """``at`` with the conditions that narrow it."""
        return replace(self.at, where=self.where)

    def _actions(self) -> list[str]:
        return [name for name in ACTIONS if getattr(self, name, None) is not None]


def _rules() -> Any:
    return Field(min_length=1, max_length=100)


class _RecipeKeys(TypedDict, total=False):
    """The keywords of :class:`Recipe`."""

    name: str
    summary: str
    when: str
    source: str
    rules: Required[Sequence[Rule]]


class Recipe(_Model):
    """A named list of rules, performed in order.

    >>> apply(model, Recipe(rules=[Rule(insert="se", at="before residual add")]))

    Raises ``RecipeError`` with all that is wrong.
    """

    @constructor
    def __init__(self, **keys: Unpack[_RecipeKeys]) -> None:
        built(self, {"name": "unnamed", **keys})

    name: str = Field(min_length=1, max_length=100, description="The file's name where left out.")
    summary: str = Field(default="", max_length=500, description="What it does, in one line.")
    when: str = Field(default="", max_length=1000, description="When to use it.")
    source: str = Field(default="", max_length=500, description="The paper or code it comes from.")
    rules: tuple[Rule, ...] = _rules()


def action(name: str, roles: Iterable[str], keys: Mapping[str, tuple[Any, Any]], origin: str) -> None:
    """Let rules say ``name: {...}``, for an edit kind of the user's own.

    Args:
        name: the action of the edit kind: one word.
        roles: what ``at:`` may name with it: those of ``phrases.ROLES``.
        keys: what may stand in the braces, each as ``(type, default)``; the default is ``...`` where it must be given.
        origin: the file or module of the user's that defines it.

    Raises:
        InputError: the name or a role will not do.
    """
    where = f'edit("{name}")'
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or name in {"at", "where", "if_present"} or hasattr(Rule, name):
        raise InputError("cannot be a key of a rule", where=where, remedy="use another word, in small letters")
    for role in roles:
        if role not in ROLES:
            raise UnknownNameError("role", role, ROLES, where=where, remedy=f"roles are {either(ROLES)}")
    fields: dict[str, Any] = dict(keys)
    model = create_model(name.title(), __base__=_Model, **fields)
    ACTIONS.add(name, Action(name, model, tuple(roles)), origin)


def recipe_model() -> type[Recipe]:
    """``Recipe``, or a subclass whose rules also take the actions of the user's own that are registered now."""
    own = tuple(each for each in ACTIONS.values() if each.name not in Rule.model_fields)
    return _extended(own) if own else Recipe


@functools.cache
def _extended(own: tuple[Action, ...]) -> type[Recipe]:
    keys: Any = {each.name: (each.keys | None, None) for each in own}
    rule = create_model("Rule", __base__=Rule, __doc__=Rule.__doc__, **keys)
    rules = (tuple[rule, ...], _rules())
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, rules=rules)


def action_problem(given: list[str]) -> str | None:
    """What is wrong with the actions of one rule, or None."""
    if len(given) == 1:
        return None
    clause = "none is there" if not given else f"{' and '.join(given)} are there; make two rules of them"
    return f"a rule needs exactly one of {', '.join(ACTIONS)}; {clause}"


def _wrong_role(at: At, action: str, roles: tuple[str, ...]) -> str:
    names = phrase_names(roles)
    turned = at.name.removeprefix("after ") if at.role == "place" else f"after {at.name}"
    hint = f"did you mean {either([str(At(turned, at.nth))])}?" if turned in names else f"it is one of {either(names)}"
    if at.role == "place":
        return f'"{at}" names a place, and {action} needs what to change there; {hint}'
    wanted = "a place" if action == "insert" else "another"
    return f'"{at}" names a part of the model, and {action} needs {wanted}; {hint}'


def _check_node(module: str, options: Mapping[str, Any]) -> None:
    try:
        catalogue.entry(module)
    except InputError as error:
        _raise([("module", says(error))])
    problems: list[tuple[str, str]] = []
    for problem in catalogue.check_options(module, options):
        key, colon, text = problem.partition(": ")
        problems.append((key, text) if colon and key in options else ("", problem))
    _raise(problems)


def _raise(problems: list[tuple[str, str]]) -> None:
    """Raise all problems at once, each at its own key (dots go deeper, an empty key stays)."""
    details: list[InitErrorDetails] = [
        {
            "type": PydanticCustomError("recipe", "{text}", {"text": text}),
            "loc": tuple(part for part in key.split(".") if part),
            "input": None,
        }
        for key, text in problems
    ]
    if details:
        raise ValidationError.from_exception_data("recipe", details)


def _unknown_key(key: str, known: Mapping[str, Any]) -> str:
    near = nearest(key, known, count=1)
    return "unknown key; " + (f"did you mean {either(near)}?" if near else f"known keys: {', '.join(known)}")


def _unknown_word(word: str, known: tuple[str, ...]) -> str:
    near = nearest(word, known, count=1)
    return f'"{word:.60}" is not known; ' + (f"did you mean {either(near)}?" if near else f"expected {either(known)}")
