"""Modules written in a test, and where their instructions stand: what a recorder of real runs finds, in small."""

from __future__ import annotations

import copy
import itertools
import linecache
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sesurgery.operating.edited_class import edited_class
from sesurgery.rewriting.author_source import Method, Span, read_method, span_of
from sesurgery.rewriting.source_edits import Edit, edited

_COUNT = itertools.count()
HEADER = "import functools\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"
WIDTH = 4


class Gate(nn.Module):
    """Multiplies by ``factor`` and counts its calls."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.factor


def written(text: str, header: str = HEADER) -> types.ModuleType:
    """The module that ``text`` is, as a notebook keeps it: its source is in linecache and nowhere else."""
    filename = f"<cell {next(_COUNT)}>"
    source = header + text
    module = types.ModuleType(f"written_{next(_COUNT)}")
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    sys.modules[module.__name__] = module
    return module


def places(host: nn.Module, *arguments: Any, **keywords: Any) -> list[tuple[types.CodeType, Span]]:
    """Each distinct place in the host's own file that runs an operation or calls a module."""
    filenames = {function.__code__.co_filename for function in _functions(type(host))}
    twin, own = copy.deepcopy(host), sys._getframe()
    noted: dict[tuple[types.CodeType, Span], None] = {}

    def note() -> None:
        frame: types.FrameType | None = sys._getframe(2)
        while frame not in (None, own) and frame.f_code.co_filename not in filenames:
            frame = frame.f_back
        if frame is not None and frame is not own:
            line, end_line, column, end_column = list(frame.f_code.co_positions())[frame.f_lasti // 2]
            noted[frame.f_code, Span(line, column, end_line, end_column)] = None  # type: ignore[arg-type]

    class Notes(TorchFunctionMode):
        def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            note()
            return function(*args, **(kwargs or {}))

    def called(module: nn.Module, _: Any) -> None:
        if module is not twin:
            note()

    handle = nn.modules.module.register_module_forward_pre_hook(called)
    try:
        with Notes():
            twin(*arguments, **keywords)
    finally:
        handle.remove()
    return list(noted)


def _functions(cls: type) -> list[types.FunctionType]:
    own = [each for each in cls.__mro__ if not each.__module__.startswith("torch.")]
    values = [value for each in own for value in vars(each).values()]
    values += [getattr(value, "__wrapped__", None) for value in values]
    return [value for value in values if isinstance(value, types.FunctionType)]


class Author:
    """The methods of a module that run, asked by the text of their expressions."""

    def __init__(self, host: nn.Module, *arguments: Any, **keywords: Any) -> None:
        self.host = host
        self.arguments = arguments
        self.keywords = keywords
        self.pristine = copy.deepcopy(host)
        self.places = places(host, *arguments, **keywords)
        codes = dict.fromkeys(code for code, _ in self.places)
        methods = [read_method(type(host), code) for code in codes]
        self.methods: dict[str, Method] = {method.name: method for method in reversed(methods)}
        self.method = methods[0]

    def at(self, text: str, nth: int = 0) -> Span:
        """The place of the instruction that gives the expression ``text``, as it ran."""
        for code, span in self.places:
            method = read_method(type(self.host), code)
            node = method.syntax.statement_at(span) or method.syntax.expression_at(span)
            if node is not None and method.source(span_of(node)) == text:
                nth -= 1
                if nth < 0:
                    self.method = method
                    return span
        raise AssertionError(f"{text} did not run")

    def text_at(self, text: str, nth: int = 0, method: str | None = None) -> Span:
        """Where ``text`` stands in the method, as an expression or a statement; for what is no operation (a name)."""
        self.method = self.methods[method] if method else self.method
        spans = sorted({span_of(node) for node in self.method.syntax.nodes})
        return [span for span in spans if self.method.source(span) == text][nth]

    def edited(self, edits: Sequence[Edit], gates: dict[str, Gate]) -> nn.Module:
        """A copy of the host that runs the edited method."""
        twin = copy.deepcopy(self.pristine)
        twin.__class__ = edited_class(type(self.host), [edited(self.method, edits)])
        for name, gate in gates.items():
            twin.add_module(name, gate)
        return twin


def same_runs(host: nn.Module, twin: nn.Module, *arguments: Any, **keywords: Any) -> None:
    """Both give the same, bit for bit, in eval and in train mode."""
    for training in (False, True):
        results = []
        for module in (host, twin):
            module.train(training)
            torch.manual_seed(3)
            given = [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]
            results.append(module(*given, **keywords))
        _same(*results)


def _same(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
        assert (left.dtype, left.requires_grad) == (right.dtype, right.requires_grad)
    elif isinstance(left, tuple | list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            _same(one, other)
    else:
        assert left == right
