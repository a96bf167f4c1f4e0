"""How the time of sesurgery.apply grows with the depth of a network; the table is part of docs/benchmarks.md.

    python benchmarks/depth.py               # prints the table; benchmarks/ratios.py puts it on the page
    python benchmarks/depth.py --blocks 50 200

The networks are made for this: equal blocks, blocks of which no two are equal, sums in one forward, blocks that do more
while training, and dense blocks that take what all earlier ones gave. CPU time of one thread, the better of two warm
runs, in turn with what nobody can avoid: ``copy.deepcopy`` and one forward on ``meta``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import sesurgery

BLOCKS = (50, 200, 800)


class Residual(nn.Module):
    """``x`` and a branch of two convolutions; ``inner`` is the width between them."""

    def __init__(self, inner: int = 8, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn1(self.conv1(x))))


class Switching(Residual):
    """A block that drops its branch while training."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.bn1(self.conv1(x))))
        if self.training:
            y = nn.functional.dropout(y, 0.1)
        return x + y


class Sums(nn.Module):
    """All sums in one forward, the branches different."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return x.mean((2, 3))


class Layer(nn.Module):
    """A layer of a dense block: all that came before, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 8, 1)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv2(torch.relu(self.conv1(torch.cat(features, 1))))


class Dense(nn.Module):
    """A dense block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(Layer(4 + 4 * number) for number in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1).mean((2, 3))


def chain(make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """Networks of a stem and a number of blocks in a row."""
    return lambda blocks: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*map(make, range(blocks))))


NETWORKS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {
    "equal blocks": ("standard", chain(lambda number: Residual())),
    "blocks all different": ("standard", chain(lambda number: Residual(8 + number))),
    "sums in one forward": ("standard", Sums),
    "blocks with a training switch": ("standard", chain(lambda number: Switching())),
    "switches, blocks all different": ("standard", chain(lambda number: Switching(8 + number))),
    "dense concats": ("concat", Dense),
}


def measured(make: Callable[[int], nn.Module], recipe: str, blocks: int) -> tuple[float, float, int]:
    """CPU seconds of apply and of the floor, the better of two runs of each in turn, and the number of edits."""
    with torch.device("meta"):
        model, image = make(blocks).eval(), torch.empty(1, 3, 16, 16)
    ours: list[float] = []
    floor: list[float] = []
    edits = 0
    for _ in range(3):
        start = time.process_time()
        with torch.no_grad():
            copy.deepcopy(model)(image)
        floor.append(time.process_time() - start)
        start = time.process_time()
        edits = len(sesurgery.apply(model, recipe, example_input=image).plan.edits)
        ours.append(time.process_time() - start)
    return min(ours[1:]), min(floor[1:]), edits


def table(counts: Sequence[int] = BLOCKS) -> str:
    """For each network the seconds by number of blocks, and how seconds and edits grow in the last step."""
    head = [f"{count} blocks" for count in counts]
    lines = ["| network | recipe | " + " | ".join(head) + " | growth of the last step | in edits |"]
    lines.append("|---|---|" + "--:|" * (len(counts) + 2))
    for name, (recipe, make) in NETWORKS.items():
        figures = [measured(make, recipe, count) for count in counts]
        cells = [f"{ours:.2f} s ({ours / floor:.1f})" for ours, floor, _ in figures]
        growth, more = (figures[-1][index] / max(figures[-2][index], 1e-9) for index in (0, 2))
        lines.append(f"| {name} | `{recipe}` | {' | '.join(cells)} | {growth:.1f} | {more:.1f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=list(BLOCKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table(options.blocks)


if __name__ == "__main__":
    main()
