"""Pre-activation units whose body returns (x, preactivated) for the projection: projected."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Body(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.bn, self.a, self.b = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)

    def forward(self, x):
        pre = torch.relu(self.bn(x))
        return self.b(torch.relu(self.a(pre))), pre


class Unit(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.body, self.project = Body(i, o), nn.Conv2d(i, o, 1) if i != o else None

    def forward(self, x):
        identity = x
        x, pre = self.body(x)
        if self.project is not None:
            identity = self.project(pre)
        return x + identity


net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Unit(8, 8), Unit(8, 16))
plan = sesurgery.plan(net, "standard", example_input=torch.randn(2, 3, 8, 8))
verdict(
    ""
    if len(plan.edits) == 2
    else f"{[edit.path for edit in plan.edits]}; left alone: {[(s.path, s.reason) for s in plan.skipped]}"
)
