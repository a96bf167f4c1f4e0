"""A user's own factory: ``path/net.py:factory`` or ``package.module:factory``, imported and called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sesurgery.errors import InputError, ModelError, UnknownNameError, either, nearest
from sesurgery.words.paths import within
from sesurgery.words.text import reason
from sesurgery.words.user_code import FOREIGN, import_file, importable, placed


@dataclass(frozen=True)
class Factory:
    """A factory that has been imported and whose arguments fit.

    Attributes:
        where: its reference, for messages.
        folder: the folder beside which its imports are found.
        file: the source file of its module, for line numbers.
    """

    call: Callable[..., object]
    where: str
    folder: Path
    file: str | None
    args: Mapping[str, Any]

    def build(self) -> nn.Module:
        """Call it. Raises what the user's code raises, and ``ModelError`` where it returns no ``nn.Module``."""
        with importable(self.folder):
            model = self.call(**self.args)
        if not isinstance(model, nn.Module):
            problem = f"the factory returned {type(model).__name__}, not an nn.Module"
            raise ModelError(problem, where=self.where, remedy="a factory returns the model itself")
        return model

    def explain(self, error: BaseException) -> ModelError:
        """What the user's code raised, in one line."""
        return ModelError(f"the factory failed with {placed(error, self.file)}", where=self.where)


def from_file(file: str, name: str, args: Mapping[str, Any]) -> Factory:
    """Import the Python file ``file`` and find the factory ``name`` in it."""
    path = Path(file).expanduser().resolve()
    module = import_file(file, "path/net.py:factory", ModelError)
    return _factory(module, name, file, path.parent, str(path), args)


def called(reference: str, where: str) -> Any:
    """What the function ``path/file.py:name`` of the user's returns.

    Raises:
        InputError: there is none, or it fails; with its own reason in one line.
    """
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f'"{reference}" names no function', where=where, remedy="write FILE.py:NAME")
    factory = from_file(file, name, {})
    try:
        with importable(factory.folder):
            return factory.call()
    except FOREIGN as error:
        problem = f"the function failed with {placed(error, factory.file)}"
        raise ModelError(problem, where=factory.where) from error


def from_module(module: str, name: str, args: Mapping[str, Any]) -> Factory:
    """Import ``module`` (the working folder counts too) and find the factory ``name`` in it."""
    folder = Path.cwd()
    with importable(folder):
        loaded = _load_module(module)
    return _factory(loaded, name, module, folder, getattr(loaded, "__file__", None), args)


def _factory(
    module: ModuleType, name: str, place: str, folder: Path, file: str | None, args: Mapping[str, Any]
) -> Factory:
    call, where = _find(module, name, place), f"{place}:{name}"
    _check_args(call, where, args)
    return Factory(call, where, folder, file, args)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and within(name, error.name):
            remedy = "install it, or run from the folder that holds it"
            raise ModelError(f'no module named "{error.name}"', where=name, remedy=remedy) from error
        raise ModelError(f"importing it failed with {reason(error)}", where=name) from error
    except FOREIGN as error:
        raise ModelError(f"importing it failed with {reason(error)}", where=name) from error


def _find(module: ModuleType, name: str, where: str) -> Callable[..., object]:
    member: object = module
    for part in name.split("."):
        if not hasattr(member, part):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            near = nearest(name, known)
            own = [key for key in known if getattr(getattr(module, key), "__module__", "") == module.__name__]
            listed = f"it holds {either(own[:5])}" if own else "it holds no function or class"
            raise ModelError(
                f'has no "{name}"', where=where, remedy=f"did you mean {either(near)}?" if near else listed
            )
        member = getattr(member, part)
    if isinstance(member, nn.Module):
        remedy = "name a function or class that returns it"
        raise ModelError(f'"{name}" is a module that exists already, not a factory', where=where, remedy=remedy)
    if not callable(member):
        remedy = "name a function or class that returns an nn.Module"
        raise ModelError(f'"{name}" is not callable but {type(member).__name__}', where=where, remedy=remedy)
    return member


def _check_args(factory: Callable[..., object], where: str, args: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    named = [n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    if not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        for name in args:
            if name not in named:
                remedy = f"it takes {either(named)}" if named else "it takes no arguments"
                raise UnknownNameError("model argument", name, named, where=where, remedy=remedy)
    missing = [n for n in named if parameters[n].default is kinds.empty and n not in args]
    if missing:
        given = ", ".join(f'"{name}": VALUE' for name in missing)
        raise InputError(
            f"the factory needs {', '.join(missing)}", where=where, remedy=f"give it: model_args={{{given}}}"
        )
