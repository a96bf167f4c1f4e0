"""Toy networks, all that tests share: blocks written in many ways, networks around them, families made small.

A network that one test alone needs stands beside that test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from timm.models import regnet
from torch import Tensor, nn

# --- residual blocks of any width -------------------------------------------------------------------------------------


class Short(nn.Module):
    """``x + conv(x)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Residual(nn.Module):
    """``relu(x + bn2(conv2(relu(bn1(conv1(x))))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + y)


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
    """``Short`` with a gate that is written out in its forward."""

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


# --- blocks in which branches meet, each written in a way of its own, on 8 channels --------------------------------


def conv(width: int = 8, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(width, width, kernel, padding=kernel // 2)


class Wrapper(nn.Module):
    """A model around another, without a length."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Parts(nn.Module):
    """Two convolutions, and whatever else a block needs, on 8 channels."""

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


class Plain(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x)


class Swapped(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x


class InPlace(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return y


class Method(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x).add_(x)


class Function(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x))


class Projected(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(x)) + self.branch(x)


class PostNorm(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.branch(x))


class PreActivation(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(torch.relu(self.norm(x)))


class Scaled(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.gamma * self.branch(x)) * self.alpha


class Stacked(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.branch(x)]).sum(0)


class Summed(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return sum([self.branch(x), x])  # type: ignore[return-value]


class SummedFirst(Parts):
    """``sum`` begins with 0, here on the identity branch."""

    def forward(self, x: Tensor) -> Tensor:
        return sum([x, self.branch(x), self.conv1(x)])  # type: ignore[return-value]


class Weighted(Parts):
    """Both branches scaled: the one without a layer is still the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x + (1 - self.gamma) * self.conv1(x)


class Three(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) + self.conv2(torch.relu(self.norm(x)))


class Biased(Parts):
    """Adds of weights are no merges: only one side is an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.gamma + 1


class Symmetric(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + self.conv2(x)


class Rep(Parts):
    """RepVGG: three single layers side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv1(x) + self.project(x) + self.norm(x))


class Squeezed(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + y * torch.sigmoid(self.project(y.mean((2, 3), keepdim=True)))


class Concat(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


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


# --- networks around them ---------------------------------------------------------------------------------------------


class OneBlock(nn.Module):
    """A stem and one block of a kind, (N, 3, H, W) to (N, 8, H, W)."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = kind()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class Net(nn.Module):
    """A stem, blocks and a classifier, (N, 3, H, W) to (N, 10)."""

    def __init__(self, *blocks: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


X = torch.zeros(1, 3, 32, 32)  # an example for Net


class Branching(nn.Module):
    """A residual network whose outer forward looks at values, as no trace of the whole could."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.Sequential(Residual(width), Residual(width))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.second = nn.Sequential(Residual(2 * width), Residual(2 * width))
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        if x.mean() > 1e6:
            x = x * 0.5
        x = self.second(self.down(x))
        return self.head(x.mean((2, 3)))


# The source of a small network, for factories in files.
SOURCE = """
import torch
from torch import nn

SCALE = torch.tensor([2.0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.bn(self.conv(x))


class Net(nn.Module):
    def __init__(self, width=8, depth=2):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def net(width=8, depth=2):
    return Net(width, depth)
"""


# --- families made small ----------------------------------------------------------------------------------------------

TINY = "timm:test_resnet"  # the smallest of timm, by name


@dataclass(frozen=True)
class Toy:
    """How to build a small member of a family, and what it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (2, 3, 64, 64)

    def model(self) -> nn.Module:
        """A new one, the same every time, no branch of it dead."""
        torch.manual_seed(7)
        return lively(self.build())

    def image(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(3))


def lively(model: nn.Module) -> nn.Module:
    """Fresh networks end their branches in zeros and keep no statistics: then a node there would make no difference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim <= 1 and tensor.is_floating_point():
                positive = name.endswith(("weight", "running_var", "gain", "gamma"))
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + (0.6 if positive else -0.25))
    return model.eval()


def _narrow_r3d() -> nn.Module:
    """r3d_18 without its two widest stages."""
    model = torchvision.models.video.r3d_18(num_classes=10)
    model.layer3, model.layer4 = nn.Identity(), nn.Identity()
    model.fc = nn.Linear(128, 10)
    return model


def _small_regnet() -> nn.Module:
    return regnet.RegNet(regnet.RegNetCfg(w0=16, wa=24, wm=2.0, group_size=8, depth=6), num_classes=10)


_RESNET = {"layers": (1, 2, 1, 2), "channels": (16, 24, 32, 48)}
_VIT = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}
_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 1), "num_heads": (1, 2)}
_MOBILE = {"inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 48, 2, 2], [6, 64, 2, 1]]}
_DENSE = {"growth_rate": 8, "block_config": (2, 3, 2), "num_init_features": 16, "drop_rate": 0.2}
_timm = functools.partial(functools.partial, timm.create_model, num_classes=10)
_tv = functools.partial(functools.partial, num_classes=10)

# Narrow and shallow, but with everything that makes up the family.
TOYS: dict[str, Toy] = {
    "resnet18": Toy(_timm("resnet18", **_RESNET)),
    "resnet50": Toy(_timm("resnet50", **_RESNET)),
    "mobilenet_v2": Toy(_tv(torchvision.models.mobilenet_v2, **_MOBILE)),
    "efficientnet_b0": Toy(_timm("tinynet_e")),
    "regnet": Toy(_small_regnet),
    "convnext": Toy(_timm("convnext_atto", depths=(1, 2, 2, 1), dims=(16, 32, 64, 96), drop_path_rate=0.1)),
    "vit": Toy(_timm("vit_tiny_patch16_224", **_VIT)),
    "swin": Toy(_timm("swin_tiny_patch4_window7_224", **_SWIN)),
    "densenet": Toy(_tv(torchvision.models.DenseNet, **_DENSE)),
    "shufflenet": Toy(_tv(torchvision.models.ShuffleNetV2, [2, 3, 2], [16, 32, 48, 64, 128])),
    "r3d_18": Toy(_narrow_r3d, (1, 3, 4, 32, 32)),
    "branching": Toy(Branching, (2, 3, 16, 16)),
}

SIZE = (3, 32, 32)  # of one image for the small ResNet


def senet_resnet50() -> nn.Module:
    """ResNet-50 on ``meta`` with the stride of each downsampling block in its first convolution, as the SENet paper
    has it."""
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    for stage in (model.layer2, model.layer3, model.layer4):
        block = stage[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return model


def small_resnet(**more: Any) -> nn.Module:
    """A ResNet-18 of five narrow blocks, the same every time; ``more`` goes to its builder."""
    torch.manual_seed(3)
    args = {"num_classes": 10, "layers": (1, 2, 1, 1), "channels": (16, 24, 32, 48), "zero_init_last": False}
    return lively(timm.create_model("resnet18", **{**args, **more}))
