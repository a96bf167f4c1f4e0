"""A detector as YOLOv5 writes it: one Sequential with routes by index, and a head that writes into its list."""

from __future__ import annotations

import pyramids
from pyramids import C3, SPPF, Concat, Conv
from torch import nn


class Detect(nn.Module):
    def __init__(self, nc, ch):
        super().__init__()
        self.no, self.nl = nc + 5, len(ch)
        self.m = nn.ModuleList(nn.Conv2d(x, self.no * 3, 1) for x in ch)

    def forward(self, x):
        for i in range(self.nl):
            x[i] = self.m[i](x[i])
            bs, _, ny, nx = x[i].shape
            x[i] = x[i].view(bs, 3, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        return x


class Yolo(pyramids.Yolo):
    def __init__(self):
        super().__init__(
            [
                (-1, Conv(3, 8, 3, 2)),
                (-1, Conv(8, 16, 3, 2)),
                (-1, C3(16, 16)),
                (-1, Conv(16, 32, 3, 2)),
                (-1, C3(32, 32, n=2)),
                (-1, Conv(32, 64, 3, 2)),
                (-1, C3(64, 64)),
                (-1, SPPF(64)),
                (-1, Conv(64, 32)),
                (-1, nn.Upsample(None, 2, "nearest")),
                ([-1, 4], Concat()),
                (-1, C3(64, 32, False)),
                (-1, Conv(32, 32, 3, 2)),
                ([-1, 8], Concat()),
                (-1, C3(64, 64, False)),
                ([11, 14], Detect(4, (32, 64))),
            ]
        )
