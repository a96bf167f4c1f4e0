"""``where:``: which of the sites that a phrase names a rule is about. Data and pure tests, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypedDict, Unpack

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from sesurgery.errors import InputError, either, nearest
from sesurgery.recipe.building import built, constructor
from sesurgery.recipe.selectors import (
    Compare,
    SiteFacts,
    check_stages_syntax,
    parse_blocks,
    parse_compare,
    parse_stages,
    select_blocks,
)

HAS_WORDS = (
    "socket",
    "attention",
    "depthwise conv",
    "residual add",
    "concat",
    "identity",
    "projection",
    "norm",
    "parallel branches",
)
REGIONS = ("backbone", "neck", "head")


def says(error: InputError) -> str:
    """What went wrong and what to do, without the place (which the caller knows better)."""
    return f"{error.what}; {error.remedy}" if error.remedy else error.what


def as_value_error(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``parse`` with its InputError turned into the ValueError that pydantic collects."""

    def checked(value: Any) -> Any:
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(says(error)) from None

    return checked


def _words(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, str) and 0 < len(item) <= 200 for item in items):
        raise ValueError("expected a word or a list of words")
    return tuple(items)


def _one_of(known: tuple[str, ...]) -> Callable[[Any], tuple[str, ...]]:
    """A check for one word, or a list of words, that are known."""

    def checked(value: Any) -> tuple[str, ...]:
        words = tuple(" ".join(word.lower().split()) for word in _words(value))
        for word in words:
            if word not in known:
                near = nearest(word, known, count=1)
                hint = f"did you mean {either(near)}?" if near else f"expected {either(known)}"
                raise ValueError(f'"{word:.60}" is not known; {hint}')
        return words

    return checked


def _known_words(known: tuple[str, ...]) -> WithJsonSchema:
    word: dict[str, Any] = {"enum": list(known)}
    return WithJsonSchema({"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]})


def _compare(value: Any) -> Compare:
    return value if isinstance(value, Compare) else parse_compare(value)


_TEXT_OR_NUMBER: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer"}]
_ONE_OR_LIST = WithJsonSchema({"anyOf": [*_TEXT_OR_NUMBER, {"type": "array", "items": {"anyOf": _TEXT_OR_NUMBER}}]})
_NAMES = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
_SHORT = PlainSerializer(lambda words: words[0] if words and len(words) == 1 else words and list(words))

Stages = Annotated[str, BeforeValidator(as_value_error(check_stages_syntax)), _ONE_OR_LIST]
Blocks = Annotated[str, BeforeValidator(as_value_error(parse_blocks)), _ONE_OR_LIST]
Words = Annotated[tuple[str, ...], BeforeValidator(_words), _SHORT, _NAMES]
Has = Annotated[tuple[str, ...], BeforeValidator(_one_of(HAS_WORDS)), _SHORT, _known_words(HAS_WORDS)]
Region = Annotated[tuple[str, ...], BeforeValidator(_one_of(REGIONS)), _SHORT, _known_words(REGIONS)]
Number = Annotated[
    Compare,
    PlainValidator(as_value_error(_compare)),
    PlainSerializer(lambda compare: compare and compare.text),
    _ONE_OR_LIST,
]


class Condition(BaseModel):
    """Keys that must all hold for a site; what is left out is not asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: Region | None = Field(
        default=None,
        description="backbone (input to the deepest map of the encoder), neck (fuses or enlarges maps of several "
        "resolutions) or head (makes the outputs); any of a list.",
    )
    stages: Stages | None = Field(
        default=None,
        description='Stages, from 1: 4, "1,3", 2-4, -1, last, last2, first, all; of the region that is named, '
        "else of the backbone.",
    )
    blocks: Blocks | None = Field(
        default=None,
        description='Blocks within their stage, from 0: ":4", -1, "::2", first2; all: in any block, not outside.',
    )
    type: Words | None = Field(
        default=None,
        description="Class name, with * and ?, of the module, its block, or one around it; any of a list. "
        "A number in at counts inside it. Of a module at before, after or on module: its own class.",
    )
    inside: Words | None = Field(
        default=None, description="Class name of a module around the site, with * and ?; any of a list."
    )
    path: Words | None = Field(
        default=None, description="Path of the layer, its host or block, or the new layer, with * and ?; any of a list."
    )
    channels: Number | None = Field(default=None, description='Channels at the site: 64, "64,128", "64-256", ">=128".')
    kernel: Number | None = Field(
        default=None, description='Kernel of the convolution there, else the largest of the block: 3, ">=5", "1x7".'
    )
    stride: Number | None = Field(
        default=None, description="Stride of the convolution there, else by how much the block shrinks the map."
    )
    has: Has | None = Field(
        default=None, description="What the block (outside all blocks: the host with its children) has; all of a list."
    )

    def mismatch(self, facts: SiteFacts) -> str | None:
        """Why the site is not meant, in words; None where it is.

        Raises:
            InputError: ``stages`` names a stage that the model does not have.
        """
        tests = (self._region, self._stage, self._block, self._type, self._inside, self._path, self._numbers, self._has)
        return next((reason for test in tests if (reason := test(facts))), None)

    def _region(self, facts: SiteFacts) -> str | None:
        if self.region is None or facts.region in self.region:
            return None
        return f"in the {facts.region}, not in the {' or '.join(self.region)}"

    def _stage(self, facts: SiteFacts) -> str | None:
        # "all" also means sites outside every stage, such as a backbone's end.
        if self.stages in (None, "all"):
            return None
        if self.region is None and facts.region != REGIONS[0]:
            return f"in the {facts.region}; its stages are counted where region: {facts.region} is named"
        if len(self.region or ()) > 1 and not facts.stages:
            return f"the {facts.region} has no stages"
        if facts.stage in parse_stages(self.stages, facts.stages):
            return None
        place = "outside all stages" if facts.stage is None else f"in stage {facts.stage}"
        return f"{place}, not in {self.stages}"

    def _block(self, facts: SiteFacts) -> str | None:
        if self.blocks is None or facts.block in select_blocks(self.blocks, facts.blocks):
            return None
        if self.blocks == "all":
            return None if facts.plain else "in no block"
        place = "in no block" if facts.block is None else f"in block {facts.block} of its stage"
        return f"{place}, not in {self.blocks}"

    def _type(self, facts: SiteFacts) -> str | None:
        if self.type is None or _matches(facts.types, self.type):
            return None
        return f"in a {facts.types[0] if facts.types else 'module'}, not in a {' or '.join(self.type)}"

    def _inside(self, facts: SiteFacts) -> str | None:
        if self.inside is None or _matches(facts.around, self.inside):
            return None
        return f"not inside a {' or '.join(self.inside)}"

    def names(self, types: Sequence[str], around: Sequence[str], paths: Sequence[str]) -> bool:
        """Whether ``type``, ``inside`` and ``path`` name a module of these classes and paths."""
        pairs = ((types, self.type), (around, self.inside), (paths, self.path))
        return all(patterns is None or _matches(names, patterns) for names, patterns in pairs)

    def _path(self, facts: SiteFacts) -> str | None:
        if self.path is None or _matches(facts.paths, self.path):
            return None
        return f"its path does not match {' or '.join(self.path)}"

    def _numbers(self, facts: SiteFacts) -> str | None:
        for name in ("channels", "kernel", "stride"):
            wanted: Compare | None = getattr(self, name)
            value: int | tuple[int, ...] | None = getattr(facts, name)
            if wanted is not None and not wanted(value):
                shown = "unknown" if value is None else "x".join(map(str, value)) if isinstance(value, tuple) else value
                return f"{name} {shown}, not {wanted.text}"
        return None

    def _has(self, facts: SiteFacts) -> str | None:
        missing = [word for word in self.has or () if word not in facts.has]
        return f"has no {missing[0]}" if missing else None


class Exclusion(Condition):
    """The condition of ``not``; an empty one would leave out every site."""

    @model_validator(mode="after")
    def _asks_something(self) -> Exclusion:
        if not self.model_fields_set:
            raise ValueError("asks nothing and so leaves out every site; name a key, such as type")
        return self


class _WhereKeys(TypedDict, total=False):
    """The keywords of :class:`Where`, as type checkers are to know them."""

    region: str | Sequence[str]
    stages: str | int
    blocks: str | int
    type: str | Sequence[str]
    inside: str | Sequence[str]
    path: str | Sequence[str]
    channels: str | int
    kernel: str | int
    stride: str | int
    has: str | Sequence[str]
    not_: Mapping[str, Any]


class Where(Condition):
    """Narrows a rule. ``not`` leaves out the sites for which all of its own keys hold; in Python it is ``not_``.

    >>> Where(stages="3-4", channels=">=128", not_={"has": ["3x3"]})
    """

    @constructor
    def __init__(self, **keys: Unpack[_WhereKeys]) -> None:
        built(self, {"not" if key == "not_" else key: value for key, value in keys.items()})

    # A frozen field may be narrower than its base's.
    stages: Stages = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="all", description=Condition.model_fields["stages"].description
    )
    not_: Exclusion | None = Field(
        default=None, alias="not", description="Leaves out sites for which all of these hold."
    )

    def mismatch(self, facts: SiteFacts) -> str | None:
        """Why the site is not meant, in words; None where it is."""
        reason = super().mismatch(facts)
        if reason is None and self.not_ is not None and self.not_.mismatch(facts) is None:
            keys = self.not_.model_dump(exclude_none=True, mode="json")
            return "left out by where.not: " + ", ".join(f"{key} {value}" for key, value in keys.items())
        return reason


def _matches(names: Iterable[str], patterns: tuple[str, ...]) -> bool:
    """Whether one of the names is what one of the patterns says."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
