"""The layers that operations have inserted into a model: where they are, whether they run, what they change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.operating.backup import MODEL_MARK, mark_of
from sesurgery.words.paths import join


@dataclass(frozen=True)
class Inserted:
    """What the marks and the plans on a model say.

    Attributes:
        present: paths of the layers that are there.
        sockets: those of them that fill a place which the host has of its own.
        gone: paths of layers that are not there any more, with their names in the registry.
        other_actions: what was done besides inserting (``remove``, ``replace``, ``rewire`` …), each once. Then the
            model computes something else than its original, and is meant to.
    """

    present: tuple[str, ...]
    sockets: frozenset[str]
    gone: dict[str, str]
    other_actions: tuple[str, ...]


def read_inserted(model: nn.Module) -> Inserted:
    """Read what is known about a model's inserted layers; of a model that nobody operated, nothing."""
    marked: dict[str, bool] = {}
    sockets: set[str] = set()
    actions: list[str] = []
    for path, host in model.named_modules():
        mark = mark_of(host)
        if mark is not None:
            marked.update({join(path, name): host._modules.get(name) is not None for name in mark.layers})
            sockets.update(
                join(path, name) for name in mark.layers if mark.attributes.get(name, ("absent",))[0] != "absent"
            )
            actions += ["replace"] if mark.attributes.keys() - set(mark.layers) else []
    planned: dict[str, str] = {}
    for path, edit in _edits(model):
        if edit["action"] == "insert":
            planned[path] = edit["module"]
        else:
            actions.append(edit["action"])
            planned.pop(path, None)
    present = tuple(path for path, there in marked.items() if there)
    expected = {**dict.fromkeys(marked, "layer"), **planned}
    gone = {path: name for path, name in expected.items() if path not in present}
    return Inserted(present, frozenset(sockets), gone, tuple(dict.fromkeys(actions)))


def _edits(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    for outer, module in model.named_modules():
        for plan in (module.__dict__.get(MODEL_MARK) or {}).get("plans", ()):
            for edit in json.loads(plan)["edits"]:
                yield join(outer, edit["path"]), edit


class Unchanged(nn.Module):
    """The identity, in the place of an inserted layer; or half of it."""

    def __init__(self, halved: bool) -> None:
        super().__init__()
        self.halved = halved

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same shape out."""
        return x * 0.5 if self.halved else x


def exchange(model: nn.Module, paths: Iterable[str], halved: Collection[str] = ()) -> None:
    """Put the identity in the place of each layer, or half of it, in ``model`` itself: a copy."""
    for path in paths:
        host, _, name = path.rpartition(".")
        model.get_submodule(host)._modules[name] = Unchanged(path in halved)


class Watch:
    """Notes what the inserted layers of a model do while it runs.

    Attributes:
        calls: how often each was called, by path.
        hosts: how often the host of each was called, by the path of the layer.
        moved: paths of those that gave back something else than they were given.
        dtypes: of those that gave back another dtype, which.
        gradients: whether any parameter of a layer got a gradient, by path; layers without parameters are not in it.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        self.calls: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.moved: set[str] = set()
        self.dtypes: dict[str, str] = {}
        self.gradients: dict[str, bool] = {}
        self._handles: list[Any] = []
        self._given: dict[str, Any] = {}

    def attach(self, model: nn.Module) -> None:
        """Watch the layers of this copy from now on."""
        for path in self.paths:
            layer, host = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
            self._handles.append(host.register_forward_pre_hook(self._around(path)))
            self._handles.append(layer.register_forward_pre_hook(self._before(path)))
            self._handles.append(layer.register_forward_hook(self._after(path)))

    def detach(self) -> None:
        """Stop watching: a backward pass may run a forward again."""
        while self._handles:
            self._handles.pop().remove()

    def read_gradients(self, model: nn.Module) -> None:
        """Look at the layers' gradients after a backward pass."""
        for path in self.paths:
            parameters = [p for p in model.get_submodule(path).parameters() if p.requires_grad]
            if parameters:
                self.gradients[path] = any(p.grad is not None for p in parameters)

    @property
    def repeated(self) -> dict[str, str]:
        """The layers that one call of their host calls more than once, which no operation plans."""
        often = {path: (calls, self.hosts[path]) for path, calls in self.calls.items() if calls > self.hosts[path] > 0}
        return {path: f"{calls} times in {hosts} calls of its host" for path, (calls, hosts) in often.items()}

    def _around(self, path: str) -> Any:
        def hook(*_: Any) -> None:
            self.hosts[path] += 1

        return hook

    def _before(self, path: str) -> Any:
        def hook(_layer: nn.Module, args: tuple[Any, ...]) -> None:
            self.calls[path] += 1
            self._given[path] = args[0].detach().clone() if args and isinstance(args[0], Tensor) else None

        return hook

    def _after(self, path: str) -> Any:
        def hook(_layer: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            given = self._given.pop(path, None)
            if not isinstance(given, Tensor) or not isinstance(output, Tensor):
                self.moved.add(path)
            elif given.dtype != output.dtype:
                self.dtypes[path] = f"{output.dtype} from {given.dtype}".replace("torch.", "")
            elif not _equal(given, output.detach()):
                self.moved.add(path)

        return hook


def _equal(one: Tensor, two: Tensor) -> bool:
    """Whether no bit differs; NaN equals NaN."""
    return one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)
