"""A host that also calls a child whose forward looks at values is operated like any other."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv, self.stride = nn.Conv2d(width, 4, 1), torch.tensor([8.0])

    def forward(self, x):
        y = self.cv(x)
        self.anchors = x.new_full((x.shape[-1], 1), self.stride[0].item())
        return y * self.anchors


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), Head(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(x)


net, x = Detector().eval(), torch.rand(2, 3, 16, 16)
surgery = sesurgery.apply(net, "standard", example_input=x, init="identity")
problems = [] if [edit.host for edit in surgery.plan.edits] == [""] else [f"{surgery.plan.edits}"]
problems += [] if torch.equal(net(x), surgery.model(x)) else ["differs"]
verdict("; ".join(problems))
