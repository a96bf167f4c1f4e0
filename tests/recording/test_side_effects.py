"""A forward that changes what its module holds: nothing of it is lost, nothing that a trial run left is taken over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
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
            self.biases[key] = self.bias[[0, 1, 2, 3, 0, 1, 2, 3]].view(1, 8, 1, 1)
        return x + self.conv(x) + self.biases[key]


class KeepingMaps(Block):
    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.maps["branch"] = self.conv(x)
        return x + self.maps["branch"]


IMPURE = {
    Cached: "sets self.ramp",
    Memoised: "would be frozen",
    Counting: "sets self.calls",
    CountingInABuffer: "sets self.calls",
    MarkingItsChild: "changes self.conv.width",
    Logging: "changes self.seen",
    Keeping: "sets self.branch",
    KeepingMaps: "changes self.maps",
}


def state(model: nn.Module) -> list[Any]:
    return [
        {name: len(value) if isinstance(value, list | dict) else value for name, value in vars(module).items()}
        for module in model.modules()
    ]


@pytest.mark.parametrize(("kind", "reason"), IMPURE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_such_a_host_is_left_whole_and_says_why(kind: type[Block], reason: str) -> None:
    model = nn.Sequential(kind(), Short())
    before = state(model)
    image = torch.randn(1, 8, 4, 4)
    surgery = sesurgery.apply(model, "standard", example_input=(image,), init="identity")
    assert state(model) == before
    assert [edit.host for edit in surgery.plan.edits] == ["1"]
    (untraced,) = sesurgery.inspect(model, example_input=(image,)).untraced
    assert untraced.path == "0"
    assert reason in untraced.reason
    assert "(line " in untraced.reason
    for width in (4, 6, 4):
        image = torch.randn(1, 8, 4, width)
        assert torch.equal(surgery.model(image), model(image))
    assert [repr(vars(surgery.model[0]).get(name)) for name in ("calls", "seen")] == [
        repr(vars(model[0]).get(name)) for name in ("calls", "seen")
    ]


@pytest.mark.parametrize("kind", [Unchanging, CountingInPlace, CachingWeights])
def test_what_a_generated_forward_repeats_is_operated(kind: type[Block]) -> None:
    model = nn.Sequential(kind(), Short())
    image = torch.randn(1, 8, 4, 4)
    surgery = sesurgery.apply(model, "standard", example_input=(image,), init="identity")
    assert [edit.host for edit in surgery.plan.edits] == ["0", "1"]
    assert torch.equal(surgery.model(image), model(image))
    assert all(torch.equal(one, two) for one, two in zip(surgery.model.buffers(), model.buffers(), strict=True))


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
