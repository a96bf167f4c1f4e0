"""The nodes this package ships with. A new one is one more entry here, or the decorator ``attention``.

Defaults are those with which timm's and torchvision's own models build the node. Imports no torch.
"""

from __future__ import annotations

from sesurgery.attention.options import Entry
from sesurgery.attention.port import LAYOUTS

_HERE = "sesurgery.attention"
_MEAN_AND_MAX = ("avg", "avg+max")
_TILED = "its blocks tile maps of {size}: they must tile those of another input size, too"
_WIDTH = frozenset({"reduction", "rd_channels", "rd_divisor"})
_ACT = frozenset({"act", "act_slope"})


def _se(name: str, summary: str, source: str, **fields: object) -> Entry:
    settings: dict[str, object] = {"starts_as_identity": True, "child": "se", **fields}
    return Entry(name, summary, source, factory=f"{_HERE}.squeeze_excite:{name}", **settings)  # type: ignore[arg-type]


def _timm(name: str, summary: str, source: str, **fields: object) -> Entry:
    factory = f"{_HERE}.timm_layers:{name}_attn"
    return Entry(name, summary, source, factory=factory, **fields)  # type: ignore[arg-type]


def _ours(name: str, summary: str, source: str, **fields: object) -> Entry:
    return Entry(name, summary, source, factory=f"{_HERE}.map_attention:{name}_attn", **fields)  # type: ignore[arg-type]


def _transform(name: str, summary: str, source: str, **fields: object) -> Entry:
    factory = f"{_HERE}.timm_layers:{name}_attn"
    return Entry(name, summary, source, factory=factory, **fields)  # type: ignore[arg-type]


TABLE: tuple[Entry, ...] = (
    _se(
        "se",
        "squeeze-and-excitation; on (N, C, H, W) timm's SEModule",
        "Hu et al. 2018 (arXiv:1709.01507)",
        options=_WIDTH | _ACT | {"gate", "squeeze", "bias"},
        layouts=frozenset(LAYOUTS),
        defaults={"reduction": 16, "rd_divisor": 8, "act": "relu", "gate": "sigmoid", "squeeze": "avg", "bias": True},
    ),
    _se(
        "se_mbconv",
        "squeeze-and-excitation of timm's EfficientNet and MobileNetV3 blocks",
        "Tan & Le 2019 (arXiv:1905.11946)",
        options=_WIDTH | _ACT | {"gate"},
        defaults={"reduction": 4, "rd_divisor": 1, "act": "relu", "gate": "sigmoid"},
        rounding="nearest",
    ),
    _se(
        "se_torchvision",
        "squeeze-and-excitation of torchvision's EfficientNet, MobileNetV3 and RegNetY",
        "torchvision.ops.SqueezeExcitation",
        options=_WIDTH | _ACT | {"gate"},
        defaults={"reduction": 4, "rd_divisor": 8, "act": "relu", "gate": "sigmoid"},
        rounding="nearest",
    ),
    _se(
        "se_linear",
        "squeeze-and-excitation by adaptive pooling and two linear layers, its width rounded down",
        "Hu et al. 2018 (arXiv:1709.01507)",
        options=frozenset({"reduction", "rd_channels", "bias", "gate"}) | _ACT,
        layouts=frozenset({"nchw", "ncl", "ncthw"}),
        defaults={"reduction": 16, "act": "relu", "gate": "sigmoid", "bias": True},
        rounding="floor",
    ),
    _se(
        "ese",
        "effective squeeze-and-excitation: one full-width layer instead of a bottleneck",
        "Lee & Park 2020 (arXiv:1911.06667)",
        options=frozenset({"gate", "squeeze"}),
        defaults={"gate": "hard_sigmoid", "squeeze": "avg"},
        choices={"squeeze": _MEAN_AND_MAX},
        child="",
    ),
    _se(
        "scse",
        "channel and spatial squeeze-and-excitation side by side, added",
        "Roy et al. 2018 (arXiv:1803.02579)",
        options=_WIDTH | _ACT | {"gate", "bias"},
        defaults={"reduction": 2, "rd_divisor": 8, "act": "relu", "gate": "sigmoid", "bias": True},
        starts_as_identity=False,
        child="",
    ),
    _timm(
        "eca",
        "efficient channel attention: one small convolution across channels",
        "Wang et al. 2020 (arXiv:1910.03151)",
        options=frozenset({"kernel_size", "gate"}),
        defaults={"kernel_size": None, "gate": "sigmoid"},
    ),
    _timm(
        "ecam",
        "ECA with a hidden layer (timm's experiment)",
        "timm.layers.EcaModule(use_mlp=True)",
        options=_WIDTH | _ACT | {"gate"},
        defaults={"reduction": 8, "rd_divisor": 8, "act": "relu", "gate": "sigmoid"},
        rounding="limited",
    ),
    _timm(
        "ceca",
        "ECA whose convolution wraps around the channels",
        "timm.layers.CecaModule",
        options=frozenset({"kernel_size", "gate"}),
        defaults={"kernel_size": None, "gate": "sigmoid"},
    ),
    _timm(
        "ge",
        "gather-excite: pool over an extent (0: the whole map), excite every position",
        "Hu et al. 2018 (arXiv:1810.12348)",
        options=_WIDTH | _ACT | {"gate", "squeeze", "extent", "extra_params"},
        defaults={
            "reduction": 16,
            "rd_divisor": 1,
            "act": "relu",
            "gate": "sigmoid",
            "squeeze": "avg",
            "extent": 0,
            "extra_params": False,
        },
        choices={"squeeze": _MEAN_AND_MAX},
    ),
    _timm(
        "gc",
        "global context: attention-pooled context that scales the channels",
        "Cao et al. 2019 (arXiv:1904.11492)",
        options=_WIDTH | _ACT | {"gate"},
        defaults={"reduction": 8, "rd_divisor": 1, "act": "relu", "gate": "sigmoid"},
    ),
    _timm(
        "gca",
        "global context that is added to the map",
        "Cao et al. 2019 (arXiv:1904.11492)",
        options=_WIDTH | _ACT,
        defaults={"reduction": 8, "rd_divisor": 1, "act": "relu"},
        starts_as_identity=True,
    ),
    _timm(
        "cbam",
        "channel attention, then spatial attention",
        "Woo et al. 2018 (arXiv:1807.06521)",
        options=_WIDTH | _ACT | {"gate", "bias", "kernel_size"},
        defaults={
            "reduction": 16,
            "rd_divisor": 1,
            "act": "relu",
            "gate": "sigmoid",
            "bias": False,
            "kernel_size": 7,
        },
    ),
    _timm(
        "lcbam",
        "CBAM that adds its average and maximum before the layers (timm's light variant)",
        "timm.layers.LightCbamModule",
        options=_WIDTH | _ACT | {"bias", "kernel_size"},
        defaults={"reduction": 16, "rd_divisor": 1, "act": "relu", "bias": False, "kernel_size": 7},
    ),
    _timm(
        "coord",
        "coordinate attention: pooling along each axis",
        "Hou et al. 2021 (arXiv:2103.02907)",
        options=_WIDTH | _ACT | {"gate", "bias"},
        defaults={"reduction": 16, "rd_divisor": 8, "act": "hard_swish", "gate": "sigmoid", "bias": False},
    ),
    _timm(
        "scoord",
        "coordinate attention with linear layers and one gate (timm's simplification)",
        "timm.layers.SimpleCoordAttn",
        options=_WIDTH | _ACT | {"gate", "bias"},
        defaults={"reduction": 4, "rd_divisor": 8, "act": "silu", "gate": "sigmoid", "bias": True},
    ),
    _timm(
        "ela",
        "efficient local attention: 1-D depthwise convolutions along each axis",
        "Xu & Wan 2024 (arXiv:2403.01123)",
        options=_ACT | {"kernel_size", "gate", "bias"},
        defaults={"kernel_size": 7, "act": "silu", "gate": "sigmoid", "bias": False},
    ),
    _timm(
        "strip",
        "strip attention: pooled rows and columns, one gate",
        "timm.layers.StripAttn",
        options=frozenset({"kernel_size", "gate", "bias"}),
        defaults={"kernel_size": 3, "gate": "sigmoid", "bias": False},
    ),
    _transform(
        "sk",
        "selective kernel: a soft choice between a small and a large convolution",
        "Li et al. 2019 (arXiv:1903.06586)",
        options=_WIDTH | _ACT | {"kernel_size", "groups", "split_input", "keep_3x3"},
        defaults={
            "reduction": 16,
            "rd_divisor": 8,
            "act": "relu",
            "kernel_size": 5,
            "groups": 1,
            "split_input": True,
            "keep_3x3": True,
        },
        choices={"kernel_size": (5, 7, 9, 11)},
        rounding="limited",
    ),
    _ours(
        "skconv",
        "selective kernel of two plain 3x3 convolutions, one dilated, with a norm and no activation",
        "code of a public rework of ShuffleNetV2 for CIFAR-10; after Li et al. 2019 (arXiv:1903.06586)",
        options=_ACT | {"reduction", "rd_channels", "rd_least", "groups", "shared", "softmax"},
        defaults={
            "reduction": 2,
            "rd_least": 32,
            "act": "identity",
            "groups": None,
            "shared": False,
            "softmax": "all",
        },
    ),
    _transform(
        "splat",
        "split attention: a grouped convolution whose groups are weighed against each other",
        "Zhang et al. 2020 (arXiv:2004.08955)",
        options=_WIDTH | _ACT | {"kernel_size", "groups", "radix", "bias"},
        defaults={
            "reduction": 4,
            "rd_divisor": 8,
            "act": "relu",
            "kernel_size": 3,
            "groups": 1,
            "radix": 2,
            "bias": False,
        },
        rounding="limited",
    ),
    _transform(
        "lambda",
        "lambda layer with a local position lambda",
        "Bello 2021 (arXiv:2102.08602)",
        options=frozenset({"num_heads", "dim_head", "kernel_size", "bias"}),
        defaults={"num_heads": 4, "dim_head": 16, "kernel_size": 9, "bias": False},
    ),
    _transform(
        "bottleneck",
        "self-attention with relative positions; bound to one map size",
        "Srinivas et al. 2021 (arXiv:2101.11605)",
        options=frozenset({"num_heads", "dim_head", "bias"}),
        defaults={"num_heads": 4, "dim_head": None, "bias": False},
        bound="bound to maps of {size}: another input size fails",
    ),
    _transform(
        "halo",
        "self-attention in blocks that see a halo around them",
        "Vaswani et al. 2021 (arXiv:2103.12731)",
        options=frozenset({"num_heads", "dim_head", "block_size", "halo_size", "bias"}),
        defaults={"num_heads": 8, "dim_head": None, "block_size": None, "halo_size": 3, "bias": False},
        bound=_TILED,
    ),
    _transform(
        "nl",
        "non-local block: self-attention over all positions, added to the map",
        "Wang et al. 2018 (arXiv:1711.07971)",
        options=_WIDTH,
        starts_as_identity=True,
        defaults={"reduction": 8, "rd_divisor": 8},
        rounding="limited",
    ),
    _transform(
        "bat",
        "bilinear attentional transform",
        "Chi et al. 2020 (CVPR)",
        options=_WIDTH | _ACT | {"block_size", "groups", "drop_rate"},
        defaults={
            "reduction": 4,
            "rd_divisor": 8,
            "act": "relu",
            "block_size": None,
            "groups": 2,
            "drop_rate": 0.2,
        },
        rounding="limited",
        bound=_TILED,
    ),
    _transform(
        "mhsa",
        "multi-head self-attention over all positions, without position codes; timm's Attention2d",
        "Vaswani et al. 2017 (arXiv:1706.03762)",
        options=frozenset({"num_heads", "bias"}),
        defaults={"num_heads": 4, "bias": True},
    ),
    _ours(
        "simam",
        "simple attention without parameters: an energy of each neuron",
        "Yang et al. 2021 (ICML), its published code",
        options=frozenset({"e_lambda"}),
        defaults={"e_lambda": 1e-4},
    ),
    _ours(
        "ema",
        "efficient multi-scale attention across grouped channels",
        "Ouyang et al. 2023 (arXiv:2305.13563), its published code",
        options=frozenset({"groups"}),
        defaults={"groups": None},
    ),
    _ours(
        "gam",
        "global attention: a linear bottleneck at each position, then two 7x7 convolutions",
        "Liu et al. 2021 (arXiv:2112.05561)",
        options=_WIDTH | _ACT | {"gate", "kernel_size"},
        defaults={"reduction": 4, "rd_divisor": 1, "act": "relu", "gate": "sigmoid", "kernel_size": 7},
    ),
    _ours(
        "shuffle",
        "shuffle attention: a channel and a spatial gate in each group, then a channel shuffle",
        "Zhang & Yang 2021 (arXiv:2102.00240), its published code",
        options=frozenset({"groups"}),
        defaults={"groups": None},
    ),
    _ours(
        "triplet",
        "triplet attention: gates across (H, W), (C, H) and (C, W), averaged",
        "Misra et al. 2021 (arXiv:2010.03045), its published code",
        options=frozenset({"kernel_size"}),
        defaults={"kernel_size": 7},
    ),
)
