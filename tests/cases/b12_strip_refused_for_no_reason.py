"""Attention whose removal was refused for in-place steps that nobody looks at: it leaves."""

import torch
import torch.nn.functional as F
from case import SE, Net, Two, verdict
from torch import nn

import sesurgery


class Tail(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1), SE(width)
        )

    def forward(self, x):
        res = self.body(x)
        res += x
        return res


class Written(Two):
    def __init__(self, width):
        super().__init__(width)
        self.fc1, self.fc2 = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x):
        out = self.b(F.relu(self.a(x)))
        w = F.avg_pool2d(out, out.size(2))
        w = torch.sigmoid(self.fc2(F.relu(self.fc1(w))))
        out = out * w
        out += x
        return F.relu(out)


problems = []
for kind in (Tail, Written):
    try:
        sesurgery.apply(Net(kind), "strip-attention", example_input=torch.randn(2, 3, 8, 8))
    except sesurgery.NothingMatchedError as error:
        problems.append(f"{kind.__name__}: {str(error)[:150]}")
verdict("; ".join(problems))
