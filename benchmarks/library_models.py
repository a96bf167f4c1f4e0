"""Small models of other libraries, with random weights: what benchmarks/user_libraries.py operates on."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

Made = tuple[Any, tuple[Any, ...]]  # a model, and the arguments of one forward
Maker = Callable[[], Made]

_SIDE = 64  # pixels of an image, where the model takes so few


def image(side: int = _SIDE, *more: int, channels: int = 3) -> Any:
    """A random image (1, C, H, W), or a volume (1, C, D, H, W) where ``more`` has the other sides."""
    import torch

    return torch.rand(1, channels, side, *(more or (side,)))


def _efficientnet_pytorch() -> dict[str, Maker]:
    def default() -> Made:
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-b0"), (image(),)

    def plain_swish() -> Made:
        model, args = default()
        model.set_swish(memory_efficient=False)
        return model, args

    return {"efficientnet-b0": default, "efficientnet-b0 set_swish(False)": plain_swish}


def _segmentation_models() -> dict[str, Maker]:
    def maker(architecture: str, encoder: str = "resnet18", **options: Any) -> Maker:
        def made() -> Made:
            import segmentation_models_pytorch as library

            side = 256 if architecture == "pan" else _SIDE
            return library.create_model(architecture, encoder, encoder_weights=None, **options), (image(side),)

        return made

    simple = "unetplusplus manet linknet fpn pspnet pan deeplabv3 deeplabv3plus upernet".split()
    return {
        "unet": maker("unet"),
        "unet scse": maker("unet", decoder_attention_type="scse"),
        "unet, mit_b0": maker("unet", "mit_b0"),
        "unet, efficientnet-b0": maker("unet", "efficientnet-b0"),
        "fpn, timm-regnetx_002": maker("fpn", "timm-regnetx_002"),
        "segformer, mit_b0": maker("segformer", "mit_b0"),
        **{name: maker(name) for name in simple},
    }


def _transformers() -> dict[str, Maker]:
    """Every class by its configuration, with the few numbers that make it small."""
    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": _SIDE,
        "patch_size": 16,
    }
    four = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}
    swin = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": _SIDE}
    wanted: dict[str, dict[str, Any]] = {
        "ViTForImageClassification": tiny,
        "DeiTForImageClassification": tiny,
        "BeitForImageClassification": tiny,
        "Data2VecVisionForImageClassification": tiny,
        "Dinov2ForImageClassification": tiny | {"mlp_ratio": 2},
        "ViTMSNForImageClassification": tiny,
        "YolosForObjectDetection": tiny | {"image_size": [_SIDE, _SIDE], "num_detection_tokens": 5},
        "CLIPVisionModel": tiny,
        "SiglipVisionModel": tiny,
        "SwinForImageClassification": swin,
        "Swinv2ForImageClassification": swin,
        "ConvNextForImageClassification": four,
        "ConvNextV2ForImageClassification": four,
        "ResNetForImageClassification": four | {"embedding_size": 16},
        "RegNetForImageClassification": four | {"embedding_size": 16, "groups_width": 8},
        "BitForImageClassification": four | {"embedding_size": 16, "num_groups": 8},
        "FocalNetForImageClassification": {"embed_dim": 16, "depths": [1, 1, 1, 1], "image_size": _SIDE},
        "PoolFormerForImageClassification": four,
        "PvtForImageClassification": four | {"hidden_sizes": [16, 32, 40, 64], "image_size": _SIDE},
        "PvtV2ForImageClassification": four | {"hidden_sizes": [16, 32, 40, 64], "image_size": _SIDE},
        "LevitForImageClassification": {"image_size": 128, "depths": [1, 1, 1]},
        "EfficientNetForImageClassification": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25},
        "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35},
        "MobileViTForImageClassification": {"image_size": _SIDE, "hidden_sizes": [32, 40, 48]},
        "MobileViTV2ForImageClassification": {"image_size": _SIDE, "width_multiplier": 0.5},
        "HieraForImageClassification": {"embed_dim": 16, "image_size": [_SIDE, _SIDE], "depths": [1, 1, 1, 1]},
        "SwiftFormerForImageClassification": {"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48]},
        "HGNetV2ForImageClassification": {},
        "SegformerForSemanticSegmentation": four | {"hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32},
        "UperNetForSemanticSegmentation": {"hidden_size": 32, "auxiliary_channels": 16},
        "DPTForDepthEstimation": tiny | {"backbone_out_indices": [0, 1, 2, 3], "num_hidden_layers": 4,
                                          "neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 32},
        "GLPNForDepthEstimation": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32},
    }  # fmt: skip

    def maker(name: str, options: dict[str, Any]) -> Maker:
        def made() -> Made:
            import transformers

            cls = getattr(transformers, name)
            side = 128 if options.get("image_size") == 128 else _SIDE
            return cls(cls.config_class(**options)), (image(side),)

        return made

    def detr() -> Made:
        import transformers

        backbone = transformers.ResNetConfig(**four, embedding_size=16, out_features=["stage4"])
        small = {"d_model": 32, "num_queries": 5, "encoder_layers": 1, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, **small, **heads)
        return transformers.DetrForObjectDetection(config), (image(),)

    models = {name: maker(name, options) for name, options in wanted.items()}
    return {**models, "DetrForObjectDetection": detr}


def _monai() -> dict[str, Maker]:
    def maker(name: str, args: Callable[[], tuple[Any, ...]], **options: Any) -> Maker:
        def made() -> Made:
            import monai.networks.nets as nets

            return getattr(nets, name)(**options), args()

        return made

    def flat() -> tuple[Any, ...]:
        return (image(channels=1),)

    def volume() -> tuple[Any, ...]:
        return (image(32, 32, 32, channels=1),)

    two = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    three = two | {"spatial_dims": 3}
    unet = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2}
    dyn = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "res_block": True}
    return {
        "UNet 2-D": maker("UNet", flat, **two, **unet),
        "UNet 3-D": maker("UNet", volume, **three, **unet),
        "SegResNet 3-D": maker("SegResNet", volume, **three, init_filters=8),
        "DynUNet 3-D": maker("DynUNet", volume, **three, **dyn),
        "BasicUNet 3-D": maker("BasicUNet", volume, **three, features=(8, 8, 16, 32, 64, 8)),
        "AttentionUnet 3-D": maker("AttentionUnet", volume, **three, channels=(8, 16, 32), strides=(2, 2)),
        "VNet 3-D": maker("VNet", volume, **three),
        "ResNet 3-D": maker("resnet10", volume, spatial_dims=3, n_input_channels=1, num_classes=2),
        "SEResNet50 2-D": maker("SEResNet50", flat, spatial_dims=2, in_channels=1, num_classes=2),
        "DenseNet121 3-D": maker("DenseNet121", volume, **three),
        "EfficientNetBN 3-D": maker(
            "EfficientNetBN", volume, model_name="efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1
        ),
        "SwinUNETR 2-D": maker("SwinUNETR", flat, **two, feature_size=12),
        "UNETR 3-D": maker(
            "UNETR", volume, in_channels=1, out_channels=2, img_size=(32, 32, 32), feature_size=8, hidden_size=32,
            mlp_dim=64, num_heads=2,
        ),
        "ViT 3-D": maker(
            "ViT", volume, in_channels=1, img_size=(32, 32, 32), patch_size=(16, 16, 16), hidden_size=32, mlp_dim=64,
            num_layers=2, num_heads=2,
        ),
        "HighResNet 2-D": maker("HighResNet", flat, **two),
        "MedNeXtS 3-D": maker("MedNeXtS", volume, **three),
    }  # fmt: skip


# What a forward of these takes is no image, or not one image.
_PYTORCHCV_INPUTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "raft": lambda: (image(128), image(128)),
    "pfpcnet": lambda: (image(320, 240, channels=1),),
    "superpointnet": lambda: (image(channels=1),),
}
_DENSE = "voc cityscapes celebamaskhq _coco ade20k".split()  # trained on large images; nothing asks for them
_NO_IMAGES = "jasper jasperdr quartznet voca nvpattexp visemenet propainter propainter_ip propainter_rfc".split()
_NARROW = re.compile("wd4|wd2|tiny|small|mini|_s$")


@cache
def _pytorchcv_families() -> dict[str, str]:
    """A small model of each file that is about images: one that is called narrow, else that with the lowest number."""
    from pytorchcv import model_provider

    chosen: dict[str, tuple[tuple[bool, int, int], str]] = {}
    for name, build in model_provider._models.items():
        family = build.__module__.rpartition(".")[2]
        if family in _NO_IMAGES:
            continue
        number = re.search(r"\d+", name)
        rank = (not _NARROW.search(name), int(number[0]) if number else 0, len(name))
        if family not in chosen or rank < chosen[family][0]:
            chosen[family] = (rank, name)
    return {family: name for family, (_, name) in chosen.items()}


def _pytorchcv() -> dict[str, Maker]:
    def maker(family: str, name: str) -> Maker:
        def made() -> Made:
            from pytorchcv.model_provider import get_model

            small = {"in_size": (128, 128)} if any(word in name for word in _DENSE) else {}
            model = get_model(name, pretrained=False, **small)
            if family in _PYTORCHCV_INPUTS:
                return model, _PYTORCHCV_INPUTS[family]()
            sides = getattr(model, "in_size", (224, 224))
            return model, (image(*sides, channels=getattr(model, "in_channels", 3)),)

        return made

    return {f"{family} {name}": maker(family, name) for family, name in _pytorchcv_families().items()}


def _pretrainedmodels() -> dict[str, Maker]:
    def maker(name: str) -> Maker:
        def made() -> Made:
            import pretrainedmodels

            side = 299 if name in ("inceptionv4", "inceptionresnetv2", "xception") else 224
            return pretrainedmodels.__dict__[name](num_classes=1000, pretrained=None), (image(side),)

        return made

    names = "bninception inceptionv4 inceptionresnetv2 nasnetamobile dpn68 xception se_resnet50 fbresnet152 resnet18"
    return {name: maker(name) for name in (names + " densenet121 vgg11_bn").split()}


def _ultralytics() -> dict[str, Maker]:
    def maker(name: str) -> Maker:
        def made() -> Made:
            from ultralytics.nn import tasks

            kinds = {"seg": "SegmentationModel", "cls": "ClassificationModel", "pose": "PoseModel", "obb": "OBBModel"}
            kind = kinds.get(name.rpartition("-")[2], "RTDETRDetectionModel" if "rtdetr" in name else "DetectionModel")
            return getattr(tasks, kind)(f"{name}.yaml", verbose=False), (image(),)

        return made

    names = "yolov5n yolov8n yolov8n-seg yolov8n-cls yolov8n-pose yolo11n yolo12n yolov10n yolov9t yolov6n"
    return {name: maker(name) for name in (names + " yolov3-tiny yolov8n-rtdetr yolo26n").split()}


def _open_clip() -> dict[str, Maker]:
    def maker(name: str, **vision: Any) -> Maker:
        def made() -> Made:
            import open_clip
            import torch

            config = open_clip.get_model_config(name)
            config["text_cfg"].update(width=64, heads=2, layers=1, vocab_size=100)
            config["vision_cfg"].update(vision)
            model = open_clip.model.CLIP(**config)
            return model, (image(vision["image_size"]), torch.randint(1, 99, (1, config["text_cfg"]["context_length"])))

        return made

    return {
        "RN50": maker("RN50", image_size=64, layers=[1, 1, 1, 1], width=16),
        "ViT-B-32": maker("ViT-B-32", image_size=64, layers=2, width=64, head_width=32),
        "convnext_tiny": maker("convnext_base", image_size=64, timm_model_name="convnext_atto"),
    }


LIBRARIES: dict[str, tuple[str, Callable[[], dict[str, Maker]]]] = {
    "efficientnet_pytorch": ("efficientnet_pytorch", _efficientnet_pytorch),
    "segmentation_models_pytorch": ("segmentation_models_pytorch", _segmentation_models),
    "transformers": ("transformers", _transformers),
    "monai": ("monai", _monai),
    "pytorchcv": ("pytorchcv", _pytorchcv),
    "pretrainedmodels": ("pretrainedmodels", _pretrainedmodels),
    "ultralytics": ("ultralytics", _ultralytics),
    "open_clip": ("open_clip_torch", _open_clip),
}


def make(reference: str) -> Made:
    """The model that a reference such as ``monai:UNet 3-D`` names, in eval mode, and an input."""
    library, _, name = reference.partition(":")
    model, args = LIBRARIES[library][1]()[name]()
    return model.eval(), args
