"""One small model of each family of timm and torchvision: what the compatibility matrix and the tests operate on.

The shapes are the library's own; depths and widths are cut down so that a model runs with real weights in moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sesurgery.models import zoo

_Arguments = tuple[Any, ...]


def _alone(images: torch.Tensor, training: bool) -> _Arguments:
    return (images,)


def _pair(images: torch.Tensor, training: bool) -> _Arguments:
    return images, images.flip(-1)


def _detection(images: torch.Tensor, training: bool) -> _Arguments:
    """A list of images, and while training one object in each."""
    height, width = images.shape[-2:]
    points = torch.tensor([[width / 3, height / 3, 1.0]]).repeat(17, 1)
    target = {
        "boxes": images.new_tensor([[width / 8, height / 8, width * 3 / 4, height * 7 / 8]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, height, width, dtype=torch.uint8),
        "keypoints": points[None],
    }
    return (list(images), [target] * len(images)) if training else (list(images),)


@dataclass(frozen=True, eq=False)
class Family:
    """A model by name, made small.

    Attributes:
        name: of the family, unique over both libraries.
        reference: ``timm:…`` or ``torchvision:…``.
        args: of its builder.
        size: of one sample, without the batch axis.
        recipe: the one that fits.
        heavy: left out of the default tests, for its size or because another family is much like it.
        arguments: of the model's forward, made of a batch of images; ``True`` while training.
    """

    name: str
    reference: str
    args: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (3, 64, 64)
    recipe: str | Mapping[str, Any] = "standard"
    heavy: bool = False
    arguments: Callable[[torch.Tensor, bool], _Arguments] = _alone

    def create(self) -> nn.Module:
        """The model with fresh, seeded weights, in eval mode.

        Nothing in it is constant: a fresh network ends its branches in zeros, and what goes on there would not show.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = zoo.create(zoo.resolve(self.reference, self.args))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith(("_min", "_max")):  # bounds that values are clipped to
                    continue
                if tensor.ndim <= 1 and tensor.is_floating_point():
                    positive = name.endswith(("weight", "running_var", "gain", "gamma"))
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + (0.75 if positive else -0.25))
                elif tensor.is_floating_point() and not tensor.any():
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
        return model

    def inputs(
        self, batch: int = 2, *, training: bool = False, seed: int = 1, dtype: torch.dtype = torch.float32
    ) -> _Arguments:
        """Positional arguments of the model's forward, from seeded random images, (N, *size)."""
        images = torch.randn(batch, *self.size, generator=torch.Generator().manual_seed(seed))
        return self.arguments(images.to(dtype), training)


_Recipe = str | Mapping[str, Any]
_CONCAT = {"name": "after-concat", "rules": [{"insert": {"module": "se"}, "at": "after concat"}]}


def _timm(
    name: str, model: str, size: int = 64, recipe: _Recipe = "standard", heavy: bool = False, **args: Any
) -> Family:
    return Family(name, f"timm:{model}", args, (3, size, size), recipe, heavy)


def _torchvision(
    name: str,
    model: str,
    size: int = 64,
    recipe: _Recipe = "standard",
    heavy: bool = False,
    frames: int = 0,
    **args: Any,
) -> Family:
    shape = (3, frames, size, size) if frames else (3, size, size)
    return Family(f"{name} (torchvision)", f"torchvision:{model}", args, shape, recipe, heavy)


def _detector(name: str, model: str, size: int, recipe: _Recipe = "standard", **args: Any) -> Family:
    """So that a network without training detects something: every score will do."""
    return Family(
        f"{name} (torchvision)",
        f"torchvision:{model}",
        {"num_classes": 4, **args},
        (3, size, size),
        recipe,
        heavy=True,
        arguments=_detection,
    )


_ONES = (1, 1, 1, 1)
_RCNN: dict[str, Any] = {
    "min_size": 96,
    "max_size": 96,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 20,
}
_ONE_SHOT: dict[str, Any] = {"score_thresh": 0.0, "detections_per_img": 10, "topk_candidates": 50}
_SWIN: dict[str, Any] = {
    "img_size": 64,
    "window_size": 4,
    "depths": (2, 1, 1, 1),
    "embed_dim": 24,
    "num_heads": (1, 2, 3, 4),
}

FAMILIES = (
    _timm("beit", "beit_base_patch16_224", img_size=64, embed_dim=48, depth=3, num_heads=3),
    _timm("byobnet", "test_byobnet"),
    _timm("cait", "cait_xxs24_224", img_size=64, embed_dim=48, depth=3, num_heads=4),
    _timm("coatnet", "test_coatnet", img_size=64),
    _timm("convmixer", "convmixer_768_32", heavy=True),
    _timm("convnext", "test_convnext"),
    _timm("cspnet", "cs3darknet_s"),
    _timm("davit", "davit_tiny", depths=_ONES, embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
    _timm("densenet", "densenet121", recipe=_CONCAT, growth_rate=8, block_config=(2, 2, 2, 2)),
    _timm("dla", "dla46x_c"),
    _timm("dpn", "dpn48b"),
    _timm("edgenext", "edgenext_xx_small", dims=(16, 32, 48, 64), depths=(2, 2, 2, 2)),
    _timm("efficientformer", "efficientformer_l1", 224, heavy=True),
    _timm("efficientnet", "efficientnet_lite0", recipe="mbconv"),
    _timm("efficientvit", "efficientvit_b0"),
    _timm("eva", "eva02_tiny_patch14_224", 56, img_size=56, embed_dim=48, depth=3, num_heads=3),
    _timm("fasternet", "fasternet_t0", embed_dim=16, depths=_ONES),
    _timm("fastvit", "fastvit_t8", layers=_ONES),
    _timm("focalnet", "focalnet_tiny_srf", heavy=True),
    _timm("gcvit", "gcvit_xxtiny", 224, heavy=True),
    _timm("ghostnet", "ghostnet_050"),
    _timm("hgnet", "hgnetv2_b0", recipe=_CONCAT),
    _timm("hrnet", "hrnet_w18_small"),
    _timm("inception_next", "inception_next_atto"),
    _timm("levit", "levit_128s", img_size=64),
    _timm("mambaout", "test_mambaout"),
    _timm("maxvit", "test_maxvit", img_size=64),
    _timm("metaformer", "poolformer_s12"),
    _timm("mlp_mixer", "gmlp_ti16_224", 224),
    _timm("mobilenetv2", "mobilenetv2_035"),
    _timm("mobilenetv3", "mobilenetv3_small_050"),
    _timm("mobilevit", "mobilevit_xxs"),
    _timm("mvitv2", "mvitv2_tiny", img_size=64, heavy=True),
    _timm("nest", "nest_tiny", 224, heavy=True),
    _timm("nfnet", "nf_resnet26"),
    _timm("pit", "pit_ti_224", img_size=64, depth=(1, 1, 1)),
    _timm("pvt_v2", "pvt_v2_b0", depths=_ONES),
    _timm("regnet", "regnetx_002"),
    _timm("repvit", "repvit_m1", depth=_ONES),
    _timm("res2net", "res2net50_48w_2s", layers=_ONES),
    _timm("resnest", "resnest14d"),
    _timm("resnet", "test_resnet"),
    _timm("resnetv2", "resnetv2_18", layers=_ONES, channels=(16, 32, 48, 64)),
    _timm("rexnet", "rexnet_100"),
    _timm("sknet", "skresnet18", layers=_ONES),
    _timm("starnet", "starnet_s050"),
    _timm("swin", "swin_tiny_patch4_window7_224", **_SWIN),
    _timm("swinv2", "swinv2_tiny_window8_256", **_SWIN),
    _timm("tiny_vit", "tiny_vit_5m_224", depths=_ONES, embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
    _timm(
        "twins",
        "twins_svt_small",
        img_size=64,
        depths=(1, 1, 2, 1),
        embed_dims=(16, 32, 48, 64),
        num_heads=(1, 2, 3, 4),
    ),
    _timm("visformer", "visformer_tiny", img_size=64, embed_dim=48, depth=(2, 1, 1), num_heads=2),
    _timm("vit", "test_vit", img_size=64),
    _timm("vit (parallel blocks)", "vit_small_patch16_36x1_224", img_size=64, embed_dim=48, depth=3, num_heads=3),
    _timm("volo", "volo_d1_224", heavy=True, img_size=64),
    _timm("vovnet", "ese_vovnet19b_slim", recipe=_CONCAT),
    _timm("xception", "xception41", heavy=True),
    _timm("xcit", "xcit_nano_12_p16_224", img_size=64, depth=3),
    _torchvision("alexnet", "alexnet", recipe="plain", num_classes=10),
    _torchvision("convnext", "convnext_tiny", heavy=True),
    _torchvision("densenet", "densenet121", recipe=_CONCAT),
    _torchvision("efficientnet", "efficientnet_b0"),
    _torchvision("googlenet", "googlenet", recipe="inception", init_weights=False),
    _torchvision("maxvit", "maxvit_t", 224, heavy=True),
    _torchvision("mnasnet", "mnasnet0_5"),
    _torchvision("mobilenet_v2", "mobilenet_v2", width_mult=0.25),
    _torchvision("mobilenet_v3", "mobilenet_v3_small", width_mult=0.5),
    _torchvision("r3d", "r3d_18", 16, frames=4),
    _torchvision("regnet", "regnet_x_400mf"),
    _torchvision("resnet", "resnet18"),
    _torchvision("shufflenet", "shufflenet_v2_x0_5", recipe="shufflenet-se"),
    _torchvision("squeezenet", "squeezenet1_1", recipe="plain"),
    _torchvision("swin", "swin_t", heavy=True),
    _torchvision("swin3d", "swin3d_t", 32, heavy=True, frames=8),
    _torchvision("vgg", "vgg11", 32, recipe="plain", heavy=True, init_weights=False),
    _torchvision("vit", "vit_b_32", heavy=True, image_size=64),
    _timm("coat", "coat_tiny", 224, heavy=True),
    _timm("convit", "convit_tiny", 224),
    _timm("crossvit", "crossvit_tiny_240", 240, heavy=True),
    _timm("hiera", "hiera_tiny_224", 224, heavy=True),
    _timm("inception_v4", "inception_v4", 96, recipe="inception", heavy=True),
    _timm("nextvit", "nextvit_small", 64, heavy=True),
    _timm("rdnet", "rdnet_tiny", recipe=_CONCAT, heavy=True),
    _timm("repghost", "repghostnet_050"),
    _timm("selecsls", "selecsls42", recipe=_CONCAT, heavy=True),
    _timm("sequencer", "sequencer2d_s", 224, heavy=True),
    _timm("shvit", "shvit_s1", 128),
    _timm("swiftformer", "swiftformer_xs", 224),
    _timm("tnt", "tnt_s_patch16_224", 224, heavy=True),
    _timm("tresnet", "tresnet_m", heavy=True),
    _timm("vgg", "vgg11_bn", 32, recipe="plain", heavy=True),
    _torchvision("s3d", "s3d", 224, recipe=_CONCAT, heavy=True, frames=16),
    _timm("byoanet", "halonet26t", 256, heavy=True),
    _timm("cpubone", "cpubone_nano", heavy=True),
    _timm("csatv2", "csatv2", heavy=True),
    _timm("cspnext", "cspnext_tiny", heavy=True),
    _timm("deepseek_vit", "deepseek_vit_412m", size=56, img_size=56, depth=3, embed_dim=64, num_heads=2, heavy=True),
    _timm("deit", "deit_tiny_patch16_224", img_size=64, depth=3, heavy=True),
    _timm("efficientformer_v2", "efficientformerv2_s0", 224, heavy=True),
    _timm("efficientvim", "efficientvim_m1", heavy=True),
    _timm("efficientvit_msra", "efficientvit_m0", img_size=64, heavy=True),
    _timm("gemma4_vit", "gemma4_vit_167m", depth=3, heavy=True),
    _timm("hardcorenas", "hardcorenas_a", heavy=True),
    _timm("hieradet_sam2", "sam2_hiera_tiny", stages=(1, 1, 2, 1), heavy=True),
    _timm("iformer", "iformer_s", heavy=True),
    _timm("inception_resnet_v2", "inception_resnet_v2", 96, heavy=True),
    _timm("inception_v3", "inception_v3", 96, recipe="inception", heavy=True),
    _timm("lcnetv2", "lcnetv2_small", heavy=True),
    _timm("lowformer", "lowformer_b0", heavy=True),
    _timm("mobilenetv5", "mobilenetv5_300m", channel_multiplier=0.25, heavy=True),
    _timm("naflexvit", "naflexvit_base_patch16_siglip", depth=3, embed_dim=48, num_heads=3, heavy=True),
    _timm("nasnet", "nasnetalarge", recipe=_CONCAT, heavy=True),
    _timm("pnasnet", "pnasnet5large", recipe=_CONCAT, heavy=True),
    _timm("qwen3_vit", "qwen3_vit_88m", depth=3, heavy=True),
    _timm("senet", "legacy_seresnet18", recipe="post", heavy=True),
    _timm("swinv2_cr", "swinv2_cr_tiny_224", heavy=True, **_SWIN),
    _timm("vit_hybrid", "vit_tiny_r_s16_p8_224", img_size=64, depth=3, heavy=True),
    _timm("vit_relpos", "vit_relpos_small_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3, heavy=True),
    _timm("vit_sam", "samvit_base_patch16", img_size=64, depth=3, embed_dim=48, num_heads=3, heavy=True),
    _timm("vitamin", "vitamin_small_224", img_size=64, heavy=True),
    _timm("xception (legacy)", "legacy_xception", heavy=True),
    _torchvision("deeplabv3", "deeplabv3_resnet50", heavy=True),
    _torchvision("fcn", "fcn_resnet50", heavy=True),
    _torchvision("lraspp", "lraspp_mobilenet_v3_large", heavy=True),
    _torchvision("inception", "inception_v3", 96, recipe="inception", init_weights=False, aux_logits=False, heavy=True),
    _torchvision("mvit", "mvit_v2_s", 224, frames=16, heavy=True),
    _torchvision("quantized googlenet", "quantized_googlenet", recipe="inception", heavy=True),
    _torchvision(
        "quantized inception",
        "quantized_inception_v3",
        96,
        recipe="inception",
        init_weights=False,
        aux_logits=False,
        heavy=True,
    ),
    _torchvision("quantized mobilenet_v2", "quantized_mobilenet_v2", heavy=True),
    _torchvision("quantized mobilenet_v3", "quantized_mobilenet_v3_large", heavy=True),
    _torchvision("quantized resnet", "quantized_resnet18", heavy=True),
    _torchvision("quantized shufflenet", "quantized_shufflenet_v2_x1_0", recipe="shufflenet-se", heavy=True),
    _detector("fasterrcnn", "fasterrcnn_mobilenet_v3_large_320_fpn", 96, **_RCNN),
    _detector("keypointrcnn", "keypointrcnn_resnet50_fpn", 96, **_RCNN),
    _detector("maskrcnn", "maskrcnn_resnet50_fpn", 96, **_RCNN),
    _detector("fcos", "fcos_resnet50_fpn", 96, min_size=96, max_size=96, **_ONE_SHOT),
    _detector("retinanet", "retinanet_resnet50_fpn", 96, min_size=96, max_size=96, **_ONE_SHOT),
    _detector("ssd", "ssd300_vgg16", 300, "plain", **_ONE_SHOT),
    _detector("ssdlite", "ssdlite320_mobilenet_v3_large", 320, **_ONE_SHOT),
    Family("raft (torchvision)", "torchvision:raft_small", {}, (3, 128, 128), heavy=True, arguments=_pair),
)
