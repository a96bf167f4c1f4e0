"""`backbone-end` is the last map of the backbone (deepest stage, before any fusion), not the last block that ran."""

import torch
from case import verdict
from torch import nn

import sesurgery


def unit(i, o, k=3, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = unit(width, width), unit(width, width)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class Detector(nn.Module):
    """A backbone p3 to p5, a neck from the top down to p3, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.head = unit(3, 16, 3, 4), nn.Upsample(scale_factor=2), nn.Conv2d(16, 6, 1)
        self.p3 = nn.Sequential(unit(16, 16, 3, 2), Block(16))
        self.p4 = nn.Sequential(unit(16, 32, 3, 2), Block(32))
        self.p5 = nn.Sequential(unit(32, 64, 3, 2), Block(64), Block(64))
        self.n4, self.n3 = nn.Sequential(unit(96, 32, 1), Block(32)), nn.Sequential(unit(48, 16, 1), Block(16))

    def forward(self, x):
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        n4 = self.n4(torch.cat([self.up(self.p5(p4)), p4], 1))
        return self.head(self.n3(torch.cat([self.up(n4), p3], 1)))


plan = sesurgery.plan(Detector().eval(), "backbone-end", input_size=(3, 128, 128))
paths = [edit.path for edit in plan.edits]
verdict("" if [path.split(".")[0] for path in paths] == ["p5"] else f"not the end of the backbone: {paths}")
