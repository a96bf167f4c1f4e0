"""A detector as YOLOv5 writes it: one Sequential with routes by index, and a head that writes into its list."""

from __future__ import annotations

import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2), Conv(c2, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        c_ = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c_), Conv(c1, c_), Conv(2 * c_, c2)
        self.m = nn.Sequential(*(Bottleneck(c_, c_, shortcut) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        c_ = c1 // 2
        self.cv1, self.cv2 = Conv(c1, c_), Conv(c_ * 4, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class Concat(nn.Module):
    def __init__(self, d=1):
        super().__init__()
        self.d = d

    def forward(self, x):
        return torch.cat(x, self.d)


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


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            (-1, Conv(3, 8, 3, 2)),
            (-1, Conv(8, 16, 3, 2)),
            (-1, C3(16, 16)),
            (-1, Conv(16, 32, 3, 2)),
            (-1, C3(32, 32, 2)),
            (-1, Conv(32, 64, 3, 2)),
            (-1, C3(64, 64)),
            (-1, SPPF(64, 64)),
            (-1, Conv(64, 32)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 4], Concat()),
            (-1, C3(64, 32, 1, False)),
            (-1, Conv(32, 32, 3, 2)),
            ([-1, 8], Concat()),
            (-1, C3(64, 64, 1, False)),
            ([11, 14], Detect(4, (32, 64))),
        ]
        self.model = nn.Sequential(*[m for _, m in layers])
        for i, (f, m) in enumerate(layers):
            m.i, m.f = i, f

    def forward(self, x):
        y = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x)
        return x
