"""A host's new class: a subclass of its own class that overrides methods by edited ones.

The class is told from its base by nothing but these methods: name, module and doc are the base's, so a model prints as
before. It has no importable name, so an instance pickles as the base would pickle it, with the edited texts besides;
``copy.deepcopy``, ``pickle`` and ``torch.save`` go the same way. Nobody is told that it was made: neither the base's
``__init_subclass__`` nor a metaclass that keeps a register. Hosts with equal edits share it, and it goes with the last.
"""

from __future__ import annotations

import abc
import copyreg
import functools
import linecache
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgery.errors import InputError, ModelError, Unfit
from sesurgery.operating.backup import HOST_MARK, mark_of
from sesurgery.operating.compiled_method import EditedMethod, compiled, exchanged, functions_in

_CLASSES: weakref.WeakValueDictionary[Any, type[nn.Module]] = weakref.WeakValueDictionary()


def edited_class(base: type[nn.Module], methods: Iterable[EditedMethod]) -> type[nn.Module]:
    """The subclass of ``base`` that runs ``methods``.

    Where ``base`` is such a class already, its author's class is the base, and its methods stay but for those given. A
    method that ``base`` itself reaches only by ``super()`` is overridden behind ``base`` in the order of resolution.

    Raises:
        Unfit: a method cannot be compiled in the place of the author's.
    """
    base, methods = unedited_class(base), (*edited_methods(base), *methods)
    latest = {(each.owner, each.attribute, each.qualname): each for each in methods}
    methods = tuple(sorted(latest.values(), key=lambda each: (each.owner.__qualname__, each.attribute, each.qualname)))
    originals = tuple(vars(each.owner).get(each.attribute) for each in methods)
    key = (base, methods, tuple(map(id, originals)))
    kind = _CLASSES.get(key)
    if kind is None:
        kind = _make_class(base, methods, originals)
        _CLASSES[key] = kind
    return kind


def original_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that ``kind`` was made of; ``kind`` itself where it is the author's."""
    return vars(kind).get("_sesurgery_base", kind)


def unedited_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a host without its edits, whatever others (parametrize, fully_shard) have derived from it since.

    Raises:
        InputError: a class was derived whose methods cannot be given to another one.
    """
    if "_sesurgery_base" in vars(kind):
        return unedited_class(original_class(kind))
    bases = tuple(unedited_class(base) if issubclass(base, nn.Module) else base for base in kind.__bases__)
    if bases == kind.__bases__:
        return kind
    body = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    if any("__class__" in function.__code__.co_freevars for value in body.values() for function in functions_in(value)):
        raise InputError(
            f"its class was changed to {kind.__qualname__} since it was operated on, which cannot be undone",
            where=kind.__bases__[0].__name__,
            remedy="take that change away first, then revert",
        )
    return _quiet_class(type(kind), kind.__name__, bases, body)


def as_it_was(module: nn.Module) -> nn.Module:
    """A module without its edits and without the layers put into it, to be looked at; any other as it is."""
    mark = mark_of(module)
    if mark is None:
        return module
    bare: nn.Module = object.__new__(unedited_class(type(module)))
    children = {name: child for name, child in module._modules.items() if name not in mark.layers}
    fields = {name: value for name, value in module.__dict__.items() if name != HOST_MARK}
    bare.__dict__.update(fields, _modules=children)
    return bare


def edited_methods(kind: type[nn.Module]) -> tuple[EditedMethod, ...]:
    """The methods that ``kind``, or the class it was derived of since, was made with; none where it is the author's."""
    return getattr(kind, "_sesurgery_methods", ())


def _make_class(base: type[nn.Module], methods: tuple[EditedMethod, ...], originals: Any) -> type[nn.Module]:
    overriding: dict[str, Any] = {}
    behind: dict[type, dict[str, Any]] = {}
    filenames: list[str] = []
    values: dict[tuple[type, str], Any] = {}
    for method, raw in zip(methods, originals, strict=True):
        place = method.owner, method.attribute
        # A method and its author's decorator may both be edited.
        before = values.get(place, raw)
        value, filename = compiled(method, before)
        values[place] = value
        filenames.append(filename)
        for name, other in _names_of(method, raw, before, value):
            first = next(each for each in base.__mro__ if name in vars(each))
            body = overriding if first is method.owner else behind.setdefault(method.owner, {})
            body[name] = other

    def reduced(self: nn.Module, protocol: Any) -> Any:
        return _reduced(self, base, methods, protocol)

    overriding |= {
        "__reduce_ex__": reduced,
        "_sesurgery_methods": methods,
        # Their ids stand for them in the key of the cache.
        "_sesurgery_originals": originals,
    }
    mixed_in = [_quiet_subclass(owner, (owner,), behind[owner]) for owner in base.__mro__ if owner in behind]
    kind = _quiet_subclass(base, (base, *mixed_in), overriding)
    for filename in filenames:
        weakref.finalize(kind, linecache.cache.pop, filename, None).atexit = False
    return kind


def _names_of(method: EditedMethod, raw: Any, before: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """The names by which a class calls a method, and what stands there once it is edited.

    A second name may be the same method (``run = forward``), or wrap it (``forward = partialmethod(run)``).
    """
    old, new = (
        next(each for each in functions_in(of) if each.__code__.co_qualname == method.qualname)
        for of in (before, value)
    )
    for name, other in vars(method.owner).items():
        if other is raw:
            yield name, value
        elif any(function is old for function in functions_in(other)):
            yield name, exchanged(other, old, new)


class _Quiet:
    """Stands first among the bases while a class is made, so that ``__init_subclass__`` of the others is not called."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        pass


def _quiet_subclass(like: type, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
    """A class with the name of ``like``, made without a call of the author's code.

    A metaclass of the author's is the type of the new class, but neither its ``__new__`` nor its ``__init__`` runs.
    """
    described = {name: vars(like)[name] for name in ("__module__", "__doc__") if name in vars(like)}
    body = {"__slots__": (), "__qualname__": like.__qualname__, "_sesurgery_base": like, **described, **body}
    metaclass: Any = type(like)
    for base in bases[1:]:
        metaclass = metaclass if issubclass(metaclass, type(base)) else type(base)
    return _quiet_class(_telling(metaclass), like.__name__, bases, body)


class _TellsItsBase(type):
    """The type of an edited class: what a forward keeps on its class (``type(self).calls += 1``) the author's has."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if _is_its_own(cls, name):
            super().__setattr__(name, value)
        else:
            setattr(vars(cls)["_sesurgery_base"], name, value)

    def __delattr__(cls, name: str) -> None:
        if _is_its_own(cls, name):
            super().__delattr__(name)
        else:
            delattr(vars(cls)["_sesurgery_base"], name)


def _is_its_own(cls: type, name: str) -> bool:
    return name in vars(cls) or name.startswith("__") or "_sesurgery_base" not in vars(cls)


@functools.cache
def _telling(metaclass: type) -> type:
    if issubclass(metaclass, _TellsItsBase):
        return metaclass
    return type(metaclass.__name__, (_TellsItsBase, metaclass) if metaclass is not type else (_TellsItsBase,), {})


def _quiet_class(metaclass: Any, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
    make = abc.ABCMeta.__new__ if issubclass(metaclass, abc.ABCMeta) else type.__new__
    kind = make(metaclass, name, (_Quiet, *bases), body)
    type.__setattr__(kind, "__bases__", bases)
    return kind


def _reduced(module: nn.Module, base: type[nn.Module], methods: tuple[EditedMethod, ...], protocol: Any) -> Any:
    """What the base's own way of pickling gives, with the base in place of the edited class."""
    kind = type(module)
    registered = copyreg.dispatch_table.get(base)
    reduced = registered(module) if registered else super(kind, module).__reduce_ex__(protocol)
    if not isinstance(reduced, tuple):
        return reduced  # a global name: the base pickles as one object that is the same everywhere
    make, arguments, *rest = reduced
    make, *arguments = (base if each is kind else each for each in (make, *arguments))
    return _rebuilt, (base, methods, make, tuple(arguments)), *rest


def _rebuilt(base: type[nn.Module], methods: tuple[EditedMethod, ...], make: Any, arguments: tuple[Any, ...]) -> Any:
    module = make(*arguments)
    if type(module) is base:
        try:
            object.__setattr__(module, "__class__", edited_class(base, methods))
        except Unfit as unfit:
            remedy = "load it with the version of the code that it was saved with"
            raise ModelError(str(unfit), where=base.__qualname__, remedy=remedy) from unfit
    return module


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Make ``module`` an instance of ``kind``. Methods that it holds (``self.forward = self.other``) go along."""
    object.__setattr__(module, "__class__", kind)
    for name, value in module.__dict__.items():
        if isinstance(value, types.MethodType) and value.__self__ is module:
            new = getattr(kind, value.__func__.__name__, None)
            if isinstance(new, types.FunctionType):
                module.__dict__[name] = types.MethodType(new, module)


def merged(kind: type[nn.Module], methods: Iterable[EditedMethod]) -> tuple[EditedMethod, ...]:
    """``methods``, read from a class that may be an edited one, with the others that it was made with."""
    known = {(each.attribute, each.qualname): each for each in edited_methods(kind)}
    for each in methods:
        before = known.get((each.attribute, each.qualname))
        known[each.attribute, each.qualname] = each if before is None else replace(each, owner=before.owner)
    return tuple(known.values())
