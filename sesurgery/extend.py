"""Your own attention layers, placements and edit kinds, registered from your own file.

    from sesurgery import extend

    @extend.attention("scale")
    @extend.placement("on every concat input")
    @extend.edit("dropout", at="activation")

CONTRIBUTING.md shows one of each. Recipes and Python know them once the file is imported, the command line with
``--import FILE.py``. A package makes its own known by an entry point of the group ``sesurgery.plugins`` that names the
module to import. Importing this file imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from sesurgery.attention.registry import attention
from sesurgery.errors import InputError, Unfit
from sesurgery.plans import Skip
from sesurgery.words.text import reason
from sesurgery.words.user_code import origin_of

if TYPE_CHECKING:
    from torch import nn

    from sesurgery.anatomy.anatomy import Anatomy
    from sesurgery.placement.placements import merges
    from sesurgery.placement.registry import placement
    from sesurgery.placement.sites import Site

__all__ = ["Anatomy", "Site", "Skip", "Unfit", "attention", "edit", "merges", "placement"]

_HOMES = {
    "Anatomy": "anatomy.anatomy",
    "Site": "placement.sites",
    "merges": "placement.placements",
    "placement": "placement.registry",
}
Kind = TypeVar("Kind", bound=Callable[..., Any])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module "sesurgery.extend" has no attribute "{name}"')
    return getattr(import_module(f"sesurgery.{_HOMES[name]}"), name)


def edit(
    name: str, *, at: str | Iterable[str], options: Mapping[str, tuple[Any, Any]] | None = None
) -> Callable[[Kind], Kind]:
    """Register an edit kind of your own, so that rules may say ``name: {...}``.

    Decorates a function ``exchanged(old: nn.Module, **options) -> nn.Module`` that says what takes the place of each
    layer that ``at:`` names: a new module, or one around the old one, which it must not change. It raises ``Unfit``
    with the reason where nothing does. Or decorates a class like those of ``sesurgery/edits/``, for more than layers.

    Args:
        name: the key of a rule, one word.
        at: which phrases ``at:`` may name: ``"activation"``, ``"conv"``, ``"norm"``, or several.
        options: what may stand in the braces, each as ``(type, default)``, with ``...`` for one that must be given;
            read off the function's other arguments where left out.

    Raises:
        InputError: the name is taken, or will not do.
    """

    def register(kind: Kind) -> Kind:
        from sesurgery.edits.kinds import edit_kind
        from sesurgery.recipe.rules import action

        origin = origin_of(kind)
        is_class = inspect.isclass(kind)
        keys = options if options is not None else {} if is_class else _options(kind)
        action(name, (at,) if isinstance(at, str) else tuple(at), keys, origin)
        registered: Any = kind if is_class else _layer_kind(name, kind)
        registered.action = name
        edit_kind(registered, origin)
        return kind

    return register


def _options(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The arguments of a function behind its first, each as ``(type, default)``."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    options: dict[str, tuple[Any, Any]] = {}
    for parameter in parameters:
        default = ... if parameter.default is parameter.empty else parameter.default
        guess = Any if default is ... or default is None else type(default)
        options[parameter.name] = (guess if parameter.annotation is parameter.empty else parameter.annotation, default)
    return options


def _layer_kind(name: str, function: Callable[..., Any]) -> type[Any]:
    from torch import nn

    from sesurgery.edits.custom_layer import LayerKind

    class FunctionKind(LayerKind):
        action = name

        def exchanged(self, options: Mapping[str, Any], old: nn.Module) -> nn.Module:
            try:
                new = function(old, **options)
            except (Unfit, InputError):
                raise
            except Exception as error:
                raise Unfit(f"{name} fails on this {type(old).__name__}: {reason(error)}") from error
            if not isinstance(new, nn.Module):
                problem = f"its function returned a {type(new).__name__}"
                raise InputError(problem, where=f'edit "{name}"', remedy="return an nn.Module")
            return new

    return FunctionKind
