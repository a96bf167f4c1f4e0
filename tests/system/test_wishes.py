"""What people ask for, each as a recipe of ``wishes/`` on a network that they have; docs/wishes.md shows them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from detectors import Yolo
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork

import sesurgery
from sesurgery.attention.registry import REGISTRY

WISHES = Path(__file__).parent / "wishes"


class Pyramid(nn.Module):
    """torchvision's FPN on ResNet-18, as in its detectors: (N, 3, H, W) to a dict of three maps."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
        self.body = IntermediateLayerGetter(torchvision.models.resnet18(), layers)
        self.fpn = FeaturePyramidNetwork([128, 256, 512], 32)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn(self.body(x))


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "yolo": Yolo,
    "pyramid": Pyramid,
    "resnet50": torchvision.models.resnet50,
    "resnet18": torchvision.models.resnet18,
    "efficientnet": lambda: timm.create_model("efficientnet_b0"),
    "mobilenetv3": torchvision.models.mobilenet_v3_small,
    "mobilenetv2": torchvision.models.mobilenet_v2,
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64),
}
# Each wish: the network, how many edits, and where the first and the last are.
ASKED = {
    "cbam-after-every-c3": ("yolo", 5, "model.2.cbam", "model.14.cbam"),
    "se-in-strided-blocks": ("resnet18", 3, "layer2.0.se", "layer4.0.se"),
    "eca-5-in-the-last-two-stages": ("resnet18", 4, "layer3.0.eca", "layer4.1.eca"),
    "silu-but-in-the-stem": ("resnet18", 8, "layer1.0.relu", "layer4.1.relu"),
    "silu-everywhere": ("resnet18", 9, "relu", "layer4.1.relu"),
    "no-se": ("efficientnet", 16, "blocks.0.0.se", "blocks.6.0.se"),
    "se-to-eca": ("mobilenetv3", 9, "features.1.block.1", "features.11.block.2"),
    "depthwise-5x5-in-one-stage": ("mobilenetv2", 3, "features.4.conv.1.0", "features.6.conv.1.0"),
    "se-on-each-fpn-output": ("pyramid", 3, "fpn.se", "fpn.se_2"),
    "se-in-transformer-mlps": ("vit", 2, "blocks.0.mlp.se", "blocks.1.mlp.se"),
    "own-coordinate-attention": ("resnet18", 8, "layer1.0.my_coord", "layer4.1.my_coord"),
    "deeplab-last-stage": ("resnet50", 4, "layer4.1.conv2", "layer4.0.downsample.0"),
    "groupnorm-for-every-batchnorm": ("resnet18", 20, "bn1", "layer4.1.bn2"),
    "before-each-input-of-the-head": ("yolo", 2, "model.15.se", "model.15.se_pre"),
    "after-sppf": ("yolo", 1, "model.7.eca", "model.7.eca"),
    "backbone-only": ("yolo", 3, "model.2.se", "model.6.se"),
    "neck-only": ("yolo", 2, "model.11.cbam", "model.14.cbam"),
    "plugins-after-conv1": ("resnet50", 13, "layer2.0.gca", "layer4.2.gca"),
    "plugins-after-conv2": ("resnet50", 13, "layer2.0.gca", "layer4.2.gca"),
    "plugins-after-conv3": ("resnet50", 13, "layer2.0.gca", "layer4.2.gca"),
}
X = torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "_entries", dict(REGISTRY._entries))
    spec = importlib.util.spec_from_file_location("my_coord", WISHES / "my_coord.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def operated(wish: str) -> tuple[nn.Module, sesurgery.Surgery, torch.Tensor]:
    model = MAKERS[ASKED[wish][0]]().eval()
    size = {"vit": 64, "resnet50": 192}.get(ASKED[wish][0], 128)
    x = X[:, :, :size, :size]
    return model, sesurgery.apply(model, WISHES / f"{wish}.yaml", example_input=x), x


def leaves(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)


def test_each_wish_is_a_recipe_and_is_tested() -> None:
    assert {path.stem for path in WISHES.glob("*.yaml")} == ASKED.keys()


@pytest.mark.parametrize("wish", ASKED)
def test_a_wish_is_what_is_done(wish: str) -> None:
    _, edits, first, last = ASKED[wish]
    _, surgery, x = operated(wish)
    paths = [edit.path for edit in surgery.plan.edits]
    assert (len(paths), paths[0], paths[-1]) == (edits, first, last)
    with torch.no_grad():
        assert all(leaf.isfinite().all() for leaf in leaves(surgery.model.eval()(x)))


@pytest.mark.parametrize("wish", ["cbam-after-every-c3", "before-each-input-of-the-head", "se-on-each-fpn-output"])
def test_a_layer_that_starts_as_the_identity_leaves_the_network_what_it_is(wish: str) -> None:
    model = MAKERS[ASKED[wish][0]]().eval()
    same = sesurgery.apply(model, WISHES / f"{wish}.yaml", init="identity", example_input=X).model.eval()
    with torch.no_grad():
        for ours, theirs in zip(leaves(same(X)), leaves(model(X)), strict=True):
            assert torch.equal(ours, theirs)


def test_deeplabs_last_stage_is_torchvisions() -> None:
    model, surgery, x = operated("deeplab-last-stage")
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(surgery.model.eval()(x), theirs(x))


@pytest.mark.parametrize(("position", "widths"), [(1, (128, 256, 512)), (2, (128, 256, 512)), (3, (512, 1024, 2048))])
def test_the_positions_of_mmdets_plugins_have_its_parameter_counts(position: int, widths: tuple[int, ...]) -> None:
    """Its ContextBlock(ratio=1/8, fusion_types=("channel_add",)): a mask, two 1x1 convolutions, a layer norm."""
    _, surgery, _ = operated(f"plugins-after-conv{position}")
    counts = [
        (width + 1) + (width + 1) * (width // 8) + 2 * (width // 8) + (width // 8 + 1) * width for width in widths
    ]
    blocks = (4, 6, 3)
    expected = sum(number * count for number, count in zip(blocks, counts, strict=True))
    assert surgery.after.params - surgery.before.params == expected
