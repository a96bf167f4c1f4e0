"""Operated models under names of their own in timm's registry: what creates models by name creates these too."""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from timm.models import (
    create_model,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    is_model,
    load_pretrained,
    register_model,
)
from torch import nn

from sesurgery.api import plans_of
from sesurgery.errors import InputError, ModelError
from sesurgery.models import zoo
from sesurgery.operating.backup import is_operated
from sesurgery.planning.operation import drafted, operate
from sesurgery.recipe.recipe import load_recipe, override, to_data
from sesurgery.recipe.rules import Recipe
from sesurgery.words.text import reason

# timm reads these two names of the module that an entry point is defined in.
__all__: list[str] = []
default_cfgs: dict[str, Any] = {}
# The base and the recipe of each name that was registered.
_REGISTERED: dict[str, tuple[str, Recipe]] = {}


def register(
    name: str,
    *,
    base: str,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    stages: str | int | None = None,
    module: str | None = None,
    **options: Any,
) -> None:
    """Make ``timm.create_model(name, ...)`` give timm's model ``base`` with a recipe operated on it.

    All arguments of ``create_model`` go to the base: ``pretrained``, ``num_classes``, ``in_chans``, ``features_only``.
    With ``pretrained=True`` the old layers have the base's weights (its tags hold too: ``name.a1_in1k``), and the new
    ones start as the recipe says. A checkpoint of the operated model loads by ``checkpoint_path``; what timm pushes to
    the hub loads where the name is registered.

    Args:
        name: letters, digits and _; no name that timm has. A name registered here may be registered anew.
        base: an architecture of timm.
        recipe: as ``apply`` takes it.
        stages: likewise.
        module: likewise.
        **options: likewise.

    Raises:
        InputError: the name is taken or none, timm has no such base, or the recipe has a mistake.
    """
    where = f'register("{name}")'
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise InputError("is no name of a model", where=where, remedy="use letters, digits and _")
    if is_model(name) and name not in default_cfgs:
        raise InputError("timm has a model of this name", where=where, remedy=f"choose another, such as {name}_se")
    architecture, _, tag = zoo.resolve(f"timm:{base.removeprefix('timm:')}").name.partition(".")
    wanted = override(load_recipe(recipe), stages=stages, module=module, options=options)
    default_cfgs.update(_configs(name, architecture, tag))
    entry = _entry(name, architecture, wanted)
    _REGISTERED[name] = (architecture, wanted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"Overwriting {name} in registry")
        register_model(entry)


def _configs(name: str, base: str, tag: str) -> Mapping[str, Any]:
    """The base's pretrained configurations under the new name; ``tag`` is to be the default."""
    configs = get_arch_pretrained_cfgs(base)
    tags = {full: full.partition(".")[2] for full in configs}
    first = next((full for full, each in tags.items() if each == tag), None) if tag else next(iter(configs), None)
    named: dict[str, Any] = {
        f"{name}.{tags[full]}{'*' * (full == first)}" if tags[full] else name: config
        for full, config in configs.items()
    }
    return generate_default_cfgs(named) if named else {name: {}}


def _entry(name: str, base: str, recipe: Recipe) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        config = kwargs.pop("pretrained_cfg", None)
        # A folder or a repository that names this model holds the weights of all its layers, not the base's.
        whole = pretrained and isinstance(config, dict) and config.get("source") in ("local-dir", "hf-hub")
        model = create_model(base, pretrained=pretrained and not whole, pretrained_cfg=config, **kwargs)
        mine = {key: value for key, value in kwargs.items() if key not in ("pretrained_cfg_overlay", "cache_dir")}
        spec = zoo.ModelSpec("timm", base, mine)
        try:
            operate(model, drafted(model, spec, recipe, None, None, None), spec)
        except InputError as error:
            if not kwargs.get("features_only"):
                raise
            remedy = f"{error.remedy}; features_only leaves out what lies behind the last of out_indices"
            raise InputError(error.what, where=error.where, remedy=remedy) from error
        except Exception as error:
            raise ModelError(f"operating on it failed with {reason(error)}", where=name) from error
        if whole:
            _load_whole(model, kwargs)
        _describe_as(model, name)
        return model

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"timm's {base} after recipe {recipe.name}."
    return entry


def _load_whole(model: nn.Module, args: Mapping[str, Any]) -> None:
    load_pretrained(
        model,
        num_classes=getattr(model, "num_classes", 0),
        in_chans=args.get("in_chans", 3),
        strict=not args.get("features_only", False),
        cache_dir=args.get("cache_dir"),
    )


def _describe_as(model: nn.Module, name: str) -> None:
    """Give a model the name by which timm describes it for the hub, and creates it from there."""
    for config in (getattr(model, each, None) for each in ("pretrained_cfg", "default_cfg")):
        if isinstance(config, dict):
            config["architecture"] = name


def guard() -> None:
    """Have what timm saves for the hub name a model by which it is created again, or by none."""
    hub: Any = import_module("timm.models._hub")
    save = hub.save_config_for_hf
    if hasattr(save, "__wrapped__"):
        return

    @functools.wraps(save)
    def save_config_guarded(model: nn.Module, config_path: Any, *args: Any, **kwargs: Any) -> Any:
        done = save(model, config_path, *args, **kwargs)
        file = Path(config_path)
        config = json.loads(file.read_text(encoding="utf-8"))
        name = _created_by(model, str(config.get("architecture")))
        if name != config.get("architecture"):
            file.write_text(json.dumps({**config, "architecture": name}, indent=2), encoding="utf-8")
        return done

    hub.save_config_for_hf = save_config_guarded


def _created_by(model: nn.Module, name: str) -> str:
    """The name by which timm creates ``model``; where there is none, a sentence at which it stops."""
    chain = [name]
    while chain[-1] in _REGISTERED:
        chain.append(_REGISTERED[chain[-1]][0])
    recipes = [to_data(_REGISTERED[each][1]) for each in reversed(chain[:-1])]
    done = [plan.recipe for plan in plans_of(model)]
    if done == recipes:
        return name
    return f"{chain[-1]}, operated: register it with sesurgery, or eject it" if is_operated(model) else chain[-1]
