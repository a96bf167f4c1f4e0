"""timm and torchvision: their names, their builders, and what their failures mean. Both are imported late."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from sesurgery.errors import InputError, ModelError, UnknownNameError, nearest
from sesurgery.models.example_inputs import FRAMES
from sesurgery.words.text import reason

Library = Literal["timm", "torchvision"]
# Arguments of the libraries' builders that would fetch or read weights behind the caller's back.
_WEIGHT_ARGS = (
    "weights",
    "weights_backbone",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)


def is_timm_name(name: str) -> bool:
    """Whether timm has an architecture of this name; a pretrained tag (``resnet50.a1_in1k``) must exist too."""
    if re.fullmatch(r"[\w.\-]+", name) is None:
        return False
    models = _import("timm.models")
    architecture, dot, tag = name.partition(".")
    if not models.is_model(architecture):
        return False
    return not dot or (bool(tag) and name in models.get_arch_pretrained_cfgs(architecture))


def is_torchvision_name(name: str) -> bool:
    """Whether torchvision has a model of this name."""
    return name in _torchvision().list_models()


def list_names() -> dict[str, tuple[str, ...]]:
    """All names, sorted, by library."""
    return {
        "timm": tuple(sorted(_import("timm.models").list_models())),
        "torchvision": tuple(sorted(_torchvision().list_models())),
    }


def unknown(kind: str, name: str, known: Sequence[str], remedy: str = "") -> UnknownNameError:
    """The error for a name that no library has; capitals and a pretrained tag do not hide the nearest one."""
    plain = name.partition(".")[0].lower()
    near = () if nearest(name, known) else nearest(plain, known, 1)
    if near:
        return UnknownNameError(kind, name, (), remedy=f'did you mean "{near[0]}"?')
    return UnknownNameError(kind, name, known, remedy=remedy)


def check(library: Library, name: str, args: Mapping[str, Any], pretrained: bool) -> None:
    """Raise where the library has no such model, or where its weights are asked for and there are none."""
    where = f"{library}:{name}"
    if not (is_timm_name(name) if library == "timm" else is_torchvision_name(name)):
        raise unknown(f"{library} model", name, list_names()[library])
    for argument in args:
        if argument in _WEIGHT_ARGS:
            problem = f'model argument "{argument}" would load weights'
            raise InputError(problem, where=where, remedy="use pretrained=True or weights=...")
    if pretrained and not _has_weights(library, name):
        remedy = "leave out pretrained=True, or give a checkpoint: weights=..."
        raise ModelError("its library publishes no pretrained weights", where=where, remedy=remedy)


def build(library: Library, name: str, args: Mapping[str, Any], pretrained: bool) -> nn.Module:
    """Call the library's builder; raises what it raises."""
    if library == "timm":
        return _import("timm").create_model(name, pretrained=pretrained, **args)
    models = _torchvision()
    given = {"weights": "DEFAULT" if pretrained else None, **args}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        # Its default is to download a backbone's weights.
        given["weights_backbone"] = None
    return models.get_model(name, **given)


def explain(error: BaseException, library: Library, name: str, args: Mapping[str, Any], pretrained: bool) -> InputError:
    """What a builder raised, as an error of ours."""
    where = f"{library}:{name}"
    argument = re.search(r"unexpected keyword argument '([^']+)'", str(error))
    if isinstance(error, TypeError) and argument and argument[1] in args:
        known = _arguments(library, name, {key: value for key, value in args.items() if key != argument[1]})
        return UnknownNameError("model argument", argument[1], known, where=where)
    if pretrained and _is_download(error):
        problem = f"downloading its pretrained weights failed with {reason(error)}"
        return ModelError(problem, where=where, remedy="give a checkpoint: weights=...")
    if _is_mismatch(error):
        return _mismatch(error)
    given = f"model_args={json.dumps(dict(args), default=str)}" if args else ""
    return ModelError(
        f"creating it failed with {reason(error)}", where=where, remedy=f"check {given}" if given else None
    )


def published_sizes(name: str) -> tuple[tuple[int, ...], ...]:
    """Sizes of one sample, (3, H, W) or (3, T, H, W), from the preprocessing that torchvision ships with weights."""
    models = _torchvision()
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    crop = getattr(weights.transforms(), "crop_size", None) if weights is not None else None
    if weights is None or not crop:
        return ()
    edges = (crop[0], crop[-1])
    if not models.get_model_builder(name).__module__.startswith("torchvision.models.video."):
        return ((3, *edges),)
    return ((3, max(FRAMES, weights.meta.get("min_temporal_size", 1)), *edges),)


def _has_weights(library: Library, name: str) -> bool:
    if library == "timm":
        return bool(_import("timm.models").is_model_pretrained(name))
    return hasattr(_torchvision().get_model_weights(name), "DEFAULT")


def _arguments(library: Library, name: str, args: Mapping[str, Any]) -> list[str]:
    """The names that a model's own class and its bases take."""
    names: set[str] = set()
    with contextlib.suppress(Exception):
        with torch.device("meta"):
            cls = type(build(library, name, args, pretrained=False))
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            names.update(inspect.signature(base.__init__).parameters)
    return sorted(names - {"self", "args", "kwargs", *_WEIGHT_ARGS})


def _is_download(error: BaseException) -> bool:
    """Whether an error comes from the system or from a library that fetches files."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) or type(link).__module__.split(".")[0] in ("huggingface_hub", "httpx", "requests"):
            return True
        link = link.__cause__ or link.__context__
    return False


def _import(name: str) -> Any:
    """Import a library, and say what is wrong where it cannot be."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or name).split(".")[0]
        raise ModelError(f"{package} is not installed", where=name, remedy=f"pip install {package}") from error
    except Exception as error:
        if _is_mismatch(error):
            raise _mismatch(error) from error
        raise ModelError(f"importing it failed with {reason(error)}", where=name) from error


def _torchvision() -> Any:
    return _import("torchvision.models")


def _is_mismatch(error: BaseException) -> bool:
    return any(sign in str(error) for sign in ("torchvision::", "custom C++ ops", "undefined symbol"))


def _mismatch(error: BaseException) -> ModelError:
    problem = f"torch and torchvision do not belong together ({reason(error)})"
    remedy = "reinstall both from the same index: pip install --force-reinstall torch torchvision"
    return ModelError(problem, where="torchvision", remedy=remedy)
