"""A YOLO, one Sequential with routes by index: the backbone ends at the last block that returns one map."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Unit(nn.Module):
    def __init__(self, i, o, s=1):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottle(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = Unit(width, width), Unit(width, width)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class Detect(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(width, 6, 1) for width in widths)

    def forward(self, x):
        found = [conv(map_) for conv, map_ in zip(self.m, x, strict=True)]
        return torch.cat([map_.flatten(2) for map_ in found], 2), found


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            (-1, Unit(3, 8, 2)),
            (-1, Bottle(8)),
            (-1, Unit(8, 16, 2)),
            (-1, Bottle(16)),
            ([1, 3], Detect((8, 16))),
        ]
        self.model = nn.Sequential(*[layer for _, layer in layers])
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source

    def forward(self, x):
        outputs = []
        for layer in self.model:
            if layer.f != -1:
                x = [outputs[index] for index in layer.f]
            x = layer(x)
            outputs.append(x)
        return x


try:
    plan = sesurgery.plan(Yolo(), "backbone-end", example_input=torch.randn(1, 3, 32, 32))
    verdict("" if [edit.host for edit in plan.edits] == ["model.3"] else str([edit.path for edit in plan.edits]))
except sesurgery.NothingMatchedError as error:
    verdict(str(error)[:160])
