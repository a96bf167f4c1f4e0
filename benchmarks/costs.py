"""What the costs of a report are worth: beside autograd, torch, fvcore and real files, on twenty networks.

``python benchmarks/costs.py`` writes docs/costs.md (about five minutes on two cores).
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from machine import machine
from safetensors.torch import save
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import sesurgery

NETWORKS = (
    ("resnet18", "identity"),
    ("resnet50", "standard"),
    ("resnet50", "pre"),
    ("resnext50_32x4d", "se-3x3"),
    ("seresnet50", "strip-attention"),
    ("resnetv2_50", "standard"),
    ("nf_regnet_b1", "post"),
    ("regnety_016", "strip-attention"),
    ("densenet121", "se-3x3"),
    ("efficientnet_b0", "strip-attention"),
    ("mobilenetv2_100", "standard"),
    ("mobilenetv3_large_100", "shufflenet-k5"),
    ("cspdarknet53", "standard"),
    ("convnext_tiny", "standard"),
    ("vit_tiny_patch16_224", "standard"),
    ("swin_tiny_patch4_window7_224", "pre"),
    ("mixer_b16_224", "standard"),
    ("torchvision:shufflenet_v2_x1_0", "shufflenet-liteconv"),
    ("torchvision:vit_b_32", "standard"),
    ("torchvision:squeezenet1_1", "concat"),
    ("torchvision:vgg11_bn", "se-3x3"),
)
HEAD = """# Costs, checked

Written by `python benchmarks/costs.py`; do not edit. One sample, training mode. *Kept* is what
`torch.autograd.graph.saved_tensors_hooks` sees in a forward of the operated model with its weights on the CPU: each
storage once, parameters and buffers left out. *Ours* is `activation_bytes` of the report, counted on `meta`. MACs are
half of the FLOPs of `FlopCounterMode` (on `meta`), and fvcore's. *File* is the smaller of `torch.save` and safetensors.
Where ours is lower, a layer of dropout (squeezenet, vgg) draws a mask in training that eval mode has not. fvcore counts
norms and pooling too, and no fused attention.

Machine: {machine}.

| network | recipe | kept before, MB | ours / kept | kept after, MB | ours / kept | change | ours \
| MACs: torch | fvcore | weight bytes / file |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def kept(model: nn.Module, image: torch.Tensor) -> int:
    """The bytes that autograd keeps of one forward in training mode."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages.setdefault(storage.data_ptr(), storage)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(image)
    return sum(storage.nbytes() for storage in storages.values())


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, rest = name.rpartition(":")
    return torchvision.models.get_model(rest) if library else timm.create_model(name)


def macs(model: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """By torch, and by fvcore."""
    analysis: Any = FlopCountAnalysis(model.eval(), image).unsupported_ops_warnings(False)
    by_fvcore = int(analysis.uncalled_modules_warnings(False).total())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.to("meta")(image.to("meta"))
    return counter.get_total_flops() // 2, by_fvcore


def file_size(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    return min(buffer.tell(), len(save(tensors)))


def row(name: str, recipe: str) -> str:
    model = build(name)
    size = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    image = torch.rand(1, *size)
    surgery = sesurgery.apply(model, recipe, example_input=image)
    before, after = surgery.before, surgery.after
    old, new = kept(model, image), kept(surgery.model, image)
    weights = after.weight_bytes / file_size(surgery.model)
    by_torch, by_fvcore = macs(surgery.model, image)
    cells = (
        f"{old / 1e6:.2f}",
        f"{before.activation_bytes / old:.3f}",
        f"{new / 1e6:.2f}",
        f"{after.activation_bytes / new:.3f}",
        f"{100 * (new / old - 1):+.2f} %",
        f"{100 * (after.activation_bytes / before.activation_bytes - 1):+.2f} %",
        f"{after.macs / by_torch:.4f}",
        f"{after.macs / by_fvcore:.4f}",
        f"{weights:.4f}",
    )
    return f"| {name} | {recipe} | {' | '.join(cells)} |\n"


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = [print(text := row(*each), flush=True) or text for each in NETWORKS]
    page = Path(__file__).parent.parent / "docs" / "costs.md"
    page.write_text(HEAD.format(machine=machine()) + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
