"""A forward that changes what its module holds: nothing of it is lost, nothing that a trial run left is taken over."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from checks import check_same
from networks import Short
from torch import Tensor, nn

import sesurgery
from sesurgery.recording.module_state import Attributes, kept


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)


class Cached(Block):
    def __init__(self) -> None:
        super().__init__()
        self.ramp: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.ramp is None or self.ramp.shape[-1] != x.shape[-1]:
            self.ramp = torch.linspace(0, 1, x.shape[-1])
        return x + self.conv(x) * self.ramp


class Memoised(Block):
    def __init__(self) -> None:
        super().__init__()
        self.ramps: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        width = int(x.shape[-1])
        if width not in self.ramps:
            self.ramps[width] = torch.linspace(0, 1, width)
        return x + self.conv(x) * self.ramps[width]


class Counting(Block):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.conv(x)


class CountingInABuffer(Block):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x + self.conv(x)


class MarkingItsChild(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv.width = 0  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.conv.width = x.shape[-1]  # type: ignore[assignment]
        return x + self.conv(x)


class Logging(Block):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen.append(y)
        return x + y


class Keeping(Block):
    """As people do to look at attention maps."""

    def forward(self, x: Tensor) -> Tensor:
        self.branch = self.conv(x)
        return x + self.branch


class Unchanging(Block):
    def __init__(self) -> None:
        super().__init__()
        self.ready = True

    def forward(self, x: Tensor) -> Tensor:
        self.ready = True
        return x + self.conv(x)


class CountingInPlace(CountingInABuffer):
    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.conv(x)


class CachingWeights(Block):
    """As LeViT keeps its attention biases: for each device what it has made of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.biases = nn.Parameter(torch.randn(4)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.conv(x) + self.bias[[0, 1, 2, 3, 0, 1, 2, 3]].view(1, 8, 1, 1)
        key = str(x.device)
        if key not in self.biases:
            self.biases[key] = self.bias[[0, 1, 2, 3, 0, 1, 2, 3]].view(1, 8, 1, 1).detach()
        return x + self.conv(x) + self.biases[key]


class KeepingMaps(Block):
    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.maps["branch"] = self.conv(x)
        return x + self.maps["branch"]


class MarkingTheClass(Block):
    """Counts on the class, as some write it by accident."""

    calls: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        return x + self.conv(x)


KINDS = [
    Cached,
    Memoised,
    Counting,
    CountingInABuffer,
    MarkingItsChild,
    Logging,
    Keeping,
    Unchanging,
    CountingInPlace,
    CachingWeights,
    KeepingMaps,
    MarkingTheClass,
]


def state(model: nn.Module) -> list[Any]:
    return [
        {name: len(value) if isinstance(value, list | dict) else value for name, value in vars(module).items()}
        for module in model.modules()
    ]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_planning_leaves_nothing_and_the_operated_forward_does_as_the_authors(kind: type[Block], inplace: bool) -> None:
    model = nn.Sequential(kind(), Short())
    original = copy.deepcopy(model)
    before = state(model)
    image = torch.randn(1, 8, 4, 4)
    surgery = sesurgery.apply(model, "standard", example_input=(image,), init="identity", inplace=inplace)
    assert MarkingTheClass.calls == []
    # One that trains in another line than it evaluates in has the sum twice: the layer is behind the convolution.
    first = "0.conv" if kind is CachingWeights else "0"
    assert [edit.host for edit in surgery.plan.edits] == [first, "1"]
    if not inplace:
        assert state(model) == before
    operated = surgery.model
    for width in (4, 6, 4):
        image = torch.randn(1, 8, 4, width)
        check_same(original, operated, image)
        assert effects(operated) == effects(original)
    MarkingTheClass.calls.clear()


def effects(model: nn.Module) -> list[Any]:
    """What a forward left in its modules: numbers, words, tensors, lists and dicts of them."""
    return [
        (name, readable(value))
        for path, module in model.named_modules()
        if "se" not in path.split(".")
        for name, value in sorted(vars(module).items())
        if not name.startswith("_")
    ]


def readable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list):
        return [readable(item) for item in value]
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    return value


def test_attributes_are_put_back() -> None:
    model = nn.Sequential(Logging(), CountingInABuffer())
    seen, calls = model[0].seen, model[1].calls
    before = Attributes(model.modules())
    assert list(before.changes()) == []
    with kept(model.modules()):
        model(torch.randn(1, 8, 4, 4))
        changed = [(change.module, change.name) for change in before.changes()]
        assert changed == [(model[0], "seen"), (model[1], "_buffers")]
        model[0].extra = 1
        del model[1].conv
    assert list(before.changes()) == []
    assert model[0].seen is seen
    assert seen == []
    assert model[1].calls is calls
    assert not hasattr(model[0], "extra")
    assert isinstance(model[1].conv, nn.Conv2d)
