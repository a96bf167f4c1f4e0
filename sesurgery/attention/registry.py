"""The registry of nodes that can be inserted. Imports no torch, so that listing them is quick."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from sesurgery.attention.builtin import TABLE
from sesurgery.attention.options import RULES, Choice, Entry
from sesurgery.attention.port import LAYOUTS, Port
from sesurgery.errors import InputError, UnknownNameError, either, nearest
from sesurgery.words.registry import Registry
from sesurgery.words.user_code import origin_of

Builder = TypeVar("Builder", bound=Callable[..., Any])


ALIASES = {"ca": "coord"}


def _plain(name: str) -> str:
    plain = name.lower().replace("_", "").replace("-", "")
    return ALIASES.get(plain, plain)


# Case, _ and - in a name do not matter.
REGISTRY: Registry[Entry] = Registry("module", _plain)
for _ours in TABLE:
    REGISTRY.add(_ours.name, _ours)


def names() -> tuple[str, ...]:
    """Names of all nodes, in the order of their registration."""
    return tuple(REGISTRY)


def canonical(name: str) -> str:
    """The registered spelling of ``name``. Raises ``UnknownNameError`` where no node has that name."""
    return REGISTRY.canonical(str(name))


def entry(name: str) -> Entry:
    """The node called ``name``. Raises ``UnknownNameError`` where none is."""
    return REGISTRY.find(str(name))


def register(new: Entry, origin: str) -> None:
    """Add a node of the user's own, defined in ``origin``. One of ours may not be replaced.

    Raises:
        InputError: where the name is no name, is taken, or a layout is unknown.
    """
    where = f'attention("{new.name}")'
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", str(new.name)):
        raise InputError("not a name", where=where, remedy="use letters, digits, _ and -, beginning with a letter")
    for layout in new.layouts - set(LAYOUTS):
        near = nearest(str(layout), LAYOUTS)
        hint = f"did you mean {either(near)}?" if near else f"layouts are {either(list(LAYOUTS))}"
        raise InputError(f'unknown layout "{layout}"', where=where, remedy=hint)
    REGISTRY.add(new.name, new, origin)


def attention(
    name: str,
    *,
    summary: str = "",
    source: str = "",
    options: Iterable[str] | None = None,
    layouts: Iterable[str] = ("nchw",),
    child: str = "",
) -> Callable[[Builder], Builder]:
    """Register a node of one's own, so that recipes and ``--module`` know it.

    Decorates a function ``build(port: Port, **options) -> nn.Module`` or an ``nn.Module`` class whose first argument
    is the number of channels. Without ``options`` its other parameters are the options. ``init: identity`` works for
    every node without further ado.

    Raises:
        InputError: where the name or a layout will not do.
    """

    def add(builder: Builder) -> Builder:
        given, defaults = _signature(builder)
        accepted = given if options is None else frozenset(options)
        doc = (inspect.getdoc(builder) or "").partition("\n")[0]
        register(
            Entry(
                name=name,
                summary=summary or doc,
                source=source,
                options=accepted - {"init", "reduce_from"},
                layouts=frozenset(layouts),
                factory=_factory(builder),
                defaults={key: value for key, value in defaults.items() if key in accepted},
                child=child,
            ),
            origin_of(builder),
        )
        return builder

    return add


def child_name(name: str) -> str:
    """Name the node should have as a child of its host: an identifier and no keyword."""
    layer = entry(name)
    plain = (layer.child or layer.name).replace("-", "_").lower()
    return f"{plain}_attn" if keyword.iskeyword(plain) else plain


def check_options(name: str, options: Mapping[str, Any], where: str = "") -> list[str]:
    """Every problem of the options given to node ``name``; an empty list where there is none.

    Options that bear a standard name mean the same, and are checked alike, in every node.
    """
    place = f"{where}: " if where else ""
    try:
        layer = entry(name)
    except UnknownNameError as error:
        return [f"{place}{error}"]
    problems = [
        f"{where}.{key}: {text}" if where else f"{key}: {text}"
        for key, value in options.items()
        if (text := _problem(layer, key, value))
    ]
    settings = {**layer.defaults, **options}
    if options.get("act_slope") is not None and settings.get("act") not in {"leaky_relu", "inherit"} and not problems:
        problems.append(f"{place}act_slope has no meaning with act: {settings.get('act')}; set act: leaky_relu")
    return problems


def choices(layer: Entry, key: str) -> str:
    """What an option of a node may be, in words."""
    rule = Choice(layer.choices[key]) if key in layer.choices else RULES.get(key)
    known = {} if rule is None else rule.schema()
    if "enum" in known:
        return ", ".join(map(str, known["enum"]))
    if "minimum" in known:
        return f"{known['minimum']:g} to {known['maximum']:g}"
    return "true, false" if known else "-"


def _problem(layer: Entry, key: str, value: object) -> str | None:
    if key not in layer.accepted:
        near = nearest(str(key), layer.accepted)
        hint = f"did you mean {either(near)}?" if near else f"options are {', '.join(sorted(layer.accepted))}"
        return f'unknown option of module "{layer.name}"; {hint}'
    if value is None and layer.defaults.get(key, value) is None:
        return None
    rule = Choice(layer.choices[key]) if key in layer.choices else RULES.get(key)
    return rule.problem(value) if rule else None


def _factory(builder: Callable[..., Any]) -> Callable[..., Any]:
    def build(port: Port, **options: Any) -> Any:
        return builder(port.channels, **options)

    return build if inspect.isclass(builder) else builder


def _signature(builder: Callable[..., Any]) -> tuple[frozenset[str], dict[str, Any]]:
    parameters = list(inspect.signature(builder).parameters.values())[1:]
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    return (
        frozenset(p.name for p in named),
        {p.name: p.default for p in named if p.default is not inspect.Parameter.empty},
    )
