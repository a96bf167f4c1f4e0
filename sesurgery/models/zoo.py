"""A name becomes a model: timm, torchvision, ``path/net.py:factory`` or ``package.module:factory``."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sesurgery.errors import InputError
from sesurgery.models import example_inputs as inputs
from sesurgery.models import libraries
from sesurgery.models import user_factories as factories
from sesurgery.models.libraries import is_timm_name, list_names
from sesurgery.models.weightless import build_on_meta

__all__ = [
    "ModelSpec",
    "candidate_inputs",
    "create",
    "example_input",
    "factory_of",
    "is_timm_name",
    "list_names",
    "resolve",
]

_FORMS = "write resnet50, timm:NAME, torchvision:NAME, path/net.py:factory or package.module:factory"
# Redirecting stdout and filtering warnings are settings of the whole process.
_LOCK = threading.RLock()


@dataclass(frozen=True)
class ModelSpec:
    """Where a model comes from and what it is made with.

    Attributes:
        source: ``timm``, ``torchvision``, ``file`` (a Python file) or ``import`` (an importable module).
        name: the library's name for it, or ``path/net.py:factory``, or ``package.module:factory``.
        args: keyword arguments for its builder.
    """

    source: Literal["timm", "torchvision", "file", "import"]
    name: str
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def reference(self) -> str:
        """Source and name as ``resolve`` reads them: ``timm:resnet50``, ``path/net.py:factory``."""
        return f"{self.source}:{self.name}" if self.source in ("timm", "torchvision") else self.name


def resolve(reference: str, args: Mapping[str, Any] | None = None) -> ModelSpec:
    """Find what a name stands for; a bare name is looked up in timm first, then in torchvision.

    Nothing is imported from a user's factory and no file is opened; ``create`` does that.

    Raises:
        UnknownNameError: the library has no such model; with the nearest names.
        InputError: no name of a known form.
    """
    name, given = reference.strip(), dict(args or {})
    source, colon, rest = name.partition(":")
    if not name:
        raise InputError("an empty name", where="model", remedy=_FORMS)
    if colon and source.lower() in ("hf-hub", "hf_hub", "local-dir"):
        remedy = "name the architecture, and give its weights: weights=..."
        raise InputError(f'"{source}:" is not accepted: it would fetch a model', where=f'model "{name}"', remedy=remedy)
    if colon and source.lower() in ("timm", "torchvision"):
        library: libraries.Library = "timm" if source.lower() == "timm" else "torchvision"
        libraries.check(library, rest, {}, pretrained=False)
        return ModelSpec(library, rest, given)
    if colon or name.endswith(".py") or "/" in name or "\\" in name:
        return _own(name, given)
    if is_timm_name(name):
        return ModelSpec("timm", name, given)
    if libraries.is_torchvision_name(name):
        return ModelSpec("torchvision", name, given)
    _refuse_folder(name)
    names = list_names()
    raise libraries.unknown("model", name, [*names["timm"], *names["torchvision"]], remedy=_FORMS)


def create(spec: ModelSpec, *, device: str | torch.device = "cpu", pretrained: bool = False) -> nn.Module:
    """Make the model, in eval mode.

    Args:
        device: ``meta`` gives a model without weights; nothing is then downloaded, whatever ``pretrained`` says.
        pretrained: with the library's own weights.

    Raises:
        UnknownNameError: the library has no model, or the builder no argument, of that name.
        ModelError: the builder failed, or its weights cannot be had; with its own reason in one line.
    """
    on_meta = torch.device(device).type == "meta"
    with _LOCK, _quiet(discard=spec.source in ("timm", "torchvision")):
        build, explain = _builder(spec, pretrained and not on_meta)
        try:
            if on_meta:
                return build_on_meta(build).eval()
            with torch.device(device):
                return build().eval()
        except InputError:
            raise
        except factories.FOREIGN as error:
            raise explain(error) from error


def candidate_inputs(
    model: nn.Module,
    spec: ModelSpec | None = None,
    input_size: Sequence[int] | str | None = None,
    device: str | torch.device = "meta",
) -> Iterator[tuple[Any, ...]]:
    """Positional arguments for one forward with a batch of 1, the most plausible first; the caller runs them.

    Sizes come from the model's own attributes, from what its library publishes with its weights, and from its first
    layers. ``input_size`` is the size of one sample, as ``read_input_size`` takes it, and leaves one candidate.
    """
    declared: tuple[tuple[int, ...], ...] = ()
    if spec is not None and spec.source == "torchvision" and input_size is None:
        declared = libraries.published_sizes(spec.name)
    return inputs.candidates(model, declared, input_size, device, spec.args if spec else None)


def example_input(
    model: nn.Module,
    spec: ModelSpec | None = None,
    input_size: Sequence[int] | str | None = None,
    device: str | torch.device = "meta",
) -> tuple[Any, ...]:
    """The first of ``candidate_inputs``: the arguments of one forward, such as ``(tensor of (1, 3, 224, 224),)``."""
    return next(candidate_inputs(model, spec, input_size, device))


def _refuse_folder(name: str) -> None:
    if Path(name).is_dir():
        remedy = "name one that sesurgery.save or sesurgery apply -o wrote"
        raise InputError("is a folder without a surgery.json", where=f'model "{name}"', remedy=remedy)


def _own(name: str, args: Mapping[str, Any]) -> ModelSpec:
    """A reference to a user's own factory."""
    where = f'model "{name}"'
    place, colon, factory = name.rpartition(":")
    if not colon and name.endswith(".py"):
        raise InputError("names a file but no factory", where=where, remedy=f"write {name}:FACTORY")
    if not colon:
        _refuse_folder(name)
    if not place or not all(part.isidentifier() for part in factory.split(".")):
        raise InputError("is no name of a model", where=where, remedy=_FORMS)
    if place.endswith(".py") or "/" in place or "\\" in place:
        return ModelSpec("file", name, args)
    if all(part.isidentifier() for part in place.split(".")):
        return ModelSpec("import", name, args)
    raise InputError("is no name of a model", where=where, remedy=_FORMS)


def _builder(
    spec: ModelSpec, pretrained: bool
) -> tuple[Callable[[], nn.Module], Callable[[BaseException], InputError]]:
    """What makes the model, and what makes an error of ours of what that raises."""
    source, name, args = spec.source, spec.name, spec.args
    if source == "timm" or source == "torchvision":
        libraries.check(source, name, args, pretrained)
        return (
            lambda: libraries.build(source, name, args, pretrained),
            lambda error: libraries.explain(error, source, name, args, pretrained),
        )
    if pretrained:
        remedy = "give its weights: weights=..."
        raise InputError("a factory of your own has no pretrained weights", where=name, remedy=remedy)
    # Imported here and not while building, so that what a module computes at import is not made on meta.
    factory = _factory(spec)
    return factory.build, factory.explain


def factory_of(spec: ModelSpec) -> Callable[..., object]:
    """The user's own factory of that name, imported. Raises ``ModelError`` where there is none."""
    return _factory(spec).call


def _factory(spec: ModelSpec) -> factories.Factory:
    place, _, attribute = spec.name.rpartition(":")
    find = factories.from_file if spec.source == "file" else factories.from_module
    return find(place, attribute, spec.args)


@contextlib.contextmanager
def _quiet(*, discard: bool) -> Iterator[None]:
    """Keep stdout for our own output: a library's chatter is dropped, a user's goes to stderr."""
    with contextlib.redirect_stdout(io.StringIO() if discard else sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The default weight initialization of", category=FutureWarning)
        yield
