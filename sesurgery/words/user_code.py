"""Python files of the user's own, and plugins: imported when they are asked for, with their errors in one line."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from sesurgery.errors import InputError, either, nearest
from sesurgery.words.text import reason

# What somebody else's code may raise; SystemExit too, since a script that is imported may end itself.
FOREIGN = (Exception, SystemExit)
PLUGINS = "sesurgery.plugins"
_PREFIX = "sesurgery_file_"


def import_file(file: str | Path, example: str = "mine.py", error: type[InputError] = InputError) -> ModuleType:
    """Import a Python file; what lies beside it can be imported by it. The same file is imported once.

    Args:
        example: how the name of a file is written here, for the message.
        error: what is raised where it is no Python file, or fails.
    """
    path = Path(file).expanduser()
    where = str(file)
    if path.is_dir():
        raise error("is a folder, not a Python file", where=where, remedy=f"name the file: {example}")
    if not path.is_file():
        siblings = [beside.name for beside in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        remedy = f"did you mean {either(near)}?" if near else f"check the path; it is written as in {example}"
        raise error("no such file", where=where, remedy=remedy)
    path = path.resolve()
    with importable(path.parent):
        return _load(path, where, error)


def _load(path: Path, where: str, error: type[InputError]) -> ModuleType:
    """Import a file under a name made from its path and text: the same file gives the same classes, for pickle."""
    try:
        text = path.read_bytes()
    except OSError as failure:
        raise error(f"cannot be read: {reason(failure)}", where=where) from failure
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(bytes(path) + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error("is no Python file", where=where, remedy="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FOREIGN as failure:
        del sys.modules[name]
        raise error(f"importing it failed with {placed(failure, str(path))}", where=where) from failure
    except BaseException:
        del sys.modules[name]
        raise
    return module


def placed(error: BaseException, file: str | None) -> str:
    """``reason(error)`` with the last line of ``file`` that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{reason(error)} (line {lines[-1]})" if lines else reason(error)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let what lies in a folder be imported, as Python does for a script."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


class _Plugins:
    asked = False
    problems: ClassVar[list[str]] = []


def load_plugins() -> tuple[str, ...]:
    """Import every installed plugin, once, and say in one line each which could not be.

    A plugin is an entry point of the group ``sesurgery.plugins`` that names a module; importing it registers things.
    Plugins are imported when a name is asked for that nothing else has registered.
    """
    from importlib.metadata import entry_points

    plugins = () if _Plugins.asked else entry_points(group=PLUGINS)
    _Plugins.asked = True
    for plugin in plugins:
        try:
            plugin.load()
        except FOREIGN as error:
            package = f" of {plugin.dist.name}" if plugin.dist is not None else ""
            _Plugins.problems.append(f'the plugin "{plugin.name}"{package} cannot be imported ({reason(error)})')
    return tuple(_Plugins.problems)


def is_of_a_file(module: str) -> bool:
    """Whether a module is one that ``import_file`` made."""
    return module.startswith(_PREFIX)


def origin_of(thing: object) -> str:
    """The module that defines a function or class, as it is imported; the file where it was not imported by name."""
    name = str(getattr(thing, "__module__", "__main__"))
    if name != "__main__" and not is_of_a_file(name):
        return name
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).name if file else "the session that defined it"
