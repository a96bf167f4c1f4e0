"""Small networks for tests: one of each family, and blocks that are written in ways of their own."""

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


@dataclass(frozen=True)
class Family:
    """How to build a small member, and what it takes."""

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
FAMILIES: dict[str, Family] = {
    "resnet18": Family(_timm("resnet18", **_RESNET)),
    "resnet50": Family(_timm("resnet50", **_RESNET)),
    "mobilenet_v2": Family(_tv(torchvision.models.mobilenet_v2, **_MOBILE)),
    "efficientnet_b0": Family(_timm("tinynet_e")),
    "regnet": Family(_small_regnet),
    "convnext": Family(_timm("convnext_atto", depths=(1, 2, 2, 1), dims=(16, 32, 64, 96), drop_path_rate=0.1)),
    "vit": Family(_timm("vit_tiny_patch16_224", **_VIT)),
    "swin": Family(_timm("swin_tiny_patch4_window7_224", **_SWIN)),
    "densenet": Family(_tv(torchvision.models.DenseNet, **_DENSE)),
    "shufflenet": Family(_tv(torchvision.models.ShuffleNetV2, [2, 3, 2], [16, 32, 48, 64, 128])),
    "r3d_18": Family(_narrow_r3d, (1, 3, 4, 32, 32)),
    "branching": Family(Branching, (2, 3, 16, 16)),
}

SIZE = (3, 32, 32)  # of one image for the small ResNet


def small_resnet(**more: Any) -> nn.Module:
    """A ResNet-18 of five narrow blocks, the same every time; ``more`` goes to its builder."""
    torch.manual_seed(3)
    args = {"num_classes": 10, "layers": (1, 2, 1, 1), "channels": (16, 24, 32, 48), "zero_init_last": False}
    return lively(timm.create_model("resnet18", **{**args, **more}))
