"""A layer behind a module: what the module's forward returns, wherever it returns, goes through the layer."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence

from torch import nn

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod, functions_in
from sesurgery.rewriting.author_source import Method, read_method, returned, span_of
from sesurgery.rewriting.source_edits import Wrap, edited


def methods_behind(kind: type[nn.Module], names: Sequence[str], others: Sequence[str] = ()) -> tuple[EditedMethod, ...]:
    """The forward of ``kind``, which may be a layer of torch, with each value that it returns wrapped.

    Args:
        others: methods that may be called in place of the forward; those with its parameters are edited likewise.

    Raises:
        Unfit: its text is not to be had, or it returns nothing in a way that can be seen.
    """
    method = forward_of(kind)
    parameters = inspect.signature(inspect.getattr_static(kind, "forward")).parameters
    alike = [getattr(kind, name) for name in others if inspect.signature(getattr(kind, name)).parameters == parameters]
    return tuple(_wrapped(each, names) for each in (method, *(read_method(kind, each.__code__) for each in alike)))


def _wrapped(method: Method, names: Sequence[str]) -> EditedMethod:
    values = returned(method)
    if not values:
        raise Unfit(f"{method.name} returns nothing that could be wrapped")
    return edited(method, [Wrap(span_of(value), name) for name in names for value in values])


def forward_of(kind: type[nn.Module]) -> Method:
    """The author's text of a class's forward. Raises ``Unfit`` where it is not to be had."""
    functions: list[types.FunctionType] = functions_in(inspect.getattr_static(kind, "forward"))
    if not functions:
        raise Unfit(f"the forward of {kind.__name__} is no Python function")
    reason: Unfit | None = None
    for function in reversed(functions):  # what decorators wrap before the decorators themselves
        try:
            return read_method(kind, function.__code__)
        except Unfit as error:
            reason = reason or error
    assert reason is not None
    raise reason
