"""Residual blocks with a condition (diffusion, StarGAN): the sums are residual, identity and projected."""

import torch
import torch.nn.functional as F
from case import Two, verdict
from torch import nn

import sesurgery


class Diffusion(Two):
    def __init__(self, width, out):
        super().__init__(width)
        self.b = nn.Conv2d(width, out, 3, padding=1)
        self.time = nn.Linear(4, width)
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x, t):
        h = self.a(F.silu(x)) + self.time(t)[:, :, None, None]
        return self.b(F.silu(h)) + self.shortcut(x)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), Diffusion(8, 8), Diffusion(8, 16)

    def forward(self, x, t):
        return self.second(self.first(self.stem(x), t), t)


example = (torch.randn(2, 3, 8, 8), torch.randn(2, 4))
kinds = {
    merge.path: merge.kind for merge in sesurgery.inspect(Denoiser(), example_input=example).merges if merge.op == "add"
}
sums = {path: kind for path, kind in kinds.items() if path.endswith("add_1") or kind != "symmetric"}
verdict("" if sorted(sums.values()) == ["identity", "projected"] else f"{kinds}")
