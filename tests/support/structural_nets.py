"""Small networks for the tests of structural edits, and the checks that every operated model has to pass."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

import sesurgery


class Block(nn.Module):
    """A residual block of two convolutions, (N, C, H, W) to the same shape."""

    def __init__(self, width: int, conv: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.conv1 = conv(width) if conv else nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        return self.act(x + self.bn2(self.conv2(y)))


class Gated(nn.Module):
    """A residual block whose gate is written out in its forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
        self.drop_rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * self.fc(self.pool(y)).sigmoid()
        y = nn.functional.dropout(y, self.drop_rate, self.training)
        return x + y


class Net(nn.Module):
    """A stem, blocks and a classifier, (N, 3, H, W) to (N, 10)."""

    def __init__(self, *blocks: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


X = torch.zeros(1, 3, 32, 32)


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The output in eval mode."""
    with torch.no_grad():
        return model.eval()(x)


def rule(**parts: object) -> dict[str, object]:
    """A recipe of one rule."""
    return {"rules": [parts]}


def check_operated(original: nn.Module, operated: nn.Module, x: Tensor) -> None:
    """Forward and backward in both modes, copies that compute the same, and a revert that restores everything."""
    before = run(original, x)
    after = run(operated, x)
    assert after.shape == before.shape
    for training in (True, False):
        # Batch norms want more than one value for each channel while training.
        operated.train(training)(torch.cat((x, x + 1))).square().mean().backward()
    assert all(parameter.grad is not None for parameter in operated.parameters() if parameter.requires_grad)
    after = run(operated, x)
    buffer = io.BytesIO()
    torch.save(operated, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(operated), pickle.loads(pickle.dumps(operated)), torch.load(buffer, weights_only=False)]
    assert all(torch.equal(run(other, x), after) for other in copies)
    for other in copies:
        check_reverted(original, other)


def check_reverted(original: nn.Module, operated: nn.Module) -> None:
    """``revert`` gives back classes, keys in their order, and every weight that no training changed."""
    reverted = sesurgery.revert(operated)
    assert [type(module) for module in reverted.modules()] == [type(module) for module in original.modules()]
    assert list(reverted.state_dict()) == list(original.state_dict())
    assert [name for name, _ in reverted.named_modules()] == [name for name, _ in original.named_modules()]


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    """Whether two models have the same keys, in order, and equal tensors."""
    first, second = one.state_dict(), two.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)
