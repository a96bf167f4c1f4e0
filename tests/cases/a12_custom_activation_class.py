"""Swish as people write it, in their own file: the layer stands behind the activation."""

import torch
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Depthwise(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn, self.act, self.pw = nn.BatchNorm2d(width), Swish(), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x + self.pw(self.act(self.bn(self.dw(x))))


class Post(Two):
    def __init__(self, width):
        super().__init__(width)
        self.act = Swish()

    def forward(self, x):
        return self.act(x + self.b(torch.relu(self.a(x))))


x = torch.randn(2, 3, 8, 8)
problems = []
for block, recipe, line in (
    (Depthwise, "mbconv", "return x + self.pw(self.se(self.act(self.bn(self.dw(x)))))"),
    (Post, "post", "return self.se(self.act(x + self.b(torch.relu(self.a(x)))))"),
):
    code = sesurgery.plan(Net(block), recipe, example_input=x).diffs[0].after
    if line not in code:
        problems.append(f"{recipe}: {code}")
verdict("; ".join(problems))
