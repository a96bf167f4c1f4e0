"""Blocks in which branches meet, each written in a way of its own, on 8 channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(width: int = 8, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(width, width, kernel, padding=kernel // 2)


class Block(nn.Module):
    """Two convolutions, and whatever else a block needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(), conv()
        self.norm = nn.BatchNorm2d(8)
        self.project = conv(kernel=1)
        self.drop = nn.Dropout(0.1)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.alpha = 0.5

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv1(x)))


class Plain(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x)


class Swapped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return y


class Method(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x).add_(x)


class Function(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x))


class Projected(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(x)) + self.branch(x)


class PostNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.branch(x))


class PreActivation(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(torch.relu(self.norm(x)))


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.gamma * self.branch(x)) * self.alpha


class Stacked(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.branch(x)]).sum(0)


class Summed(Block):
    def forward(self, x: Tensor) -> Tensor:
        return sum([self.branch(x), x])  # type: ignore[return-value]


class SummedFirst(Block):
    """``sum`` begins with 0, here on the identity branch."""

    def forward(self, x: Tensor) -> Tensor:
        return sum([x, self.branch(x), self.conv1(x)])  # type: ignore[return-value]


class Weighted(Block):
    """Both branches scaled: the one without a layer is still the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x + (1 - self.gamma) * self.conv1(x)


class Three(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) + self.conv2(torch.relu(self.norm(x)))


class Biased(Block):
    """Adds of weights are no merges: only one side is an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.gamma + 1


class Symmetric(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + self.conv2(x)


class Rep(Block):
    """RepVGG: three single layers side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv1(x) + self.project(x) + self.norm(x))


class Squeezed(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + y * torch.sigmoid(self.project(y.mean((2, 3), keepdim=True)))


class Concat(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


class Net(nn.Module):
    """Two blocks of one kind between a stem and nothing."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = kind()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.third = conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.third(torch.relu(self.second(y)))
        return x + y


class Parallel(nn.Module):
    """``x + attention(norm(x)) + mlp(norm(x))``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.BatchNorm2d(8), conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attn(y) + self.mlp(y)
