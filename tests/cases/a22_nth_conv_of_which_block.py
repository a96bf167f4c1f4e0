"""`after conv 2` with `where: {type: Bottle}`: behind cv2 of the bottleneck."""

import torch
from case import Net, verdict
from torch import nn

import sesurgery


class Unit(nn.Module):
    def __init__(self, i, o, k=1):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, k, padding=k // 2), nn.BatchNorm2d(o), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottle(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = Unit(width, width), Unit(width, width, 3)

    def forward(self, x):
        return self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.cv1, self.cv2, self.cv3 = Unit(width, half), Unit(width, half), Unit(width, width)
        self.m = nn.Sequential(Bottle(half))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


where = {"type": "Bottle"}
recipe = {"name": "second", "rules": [{"insert": {"module": "se"}, "at": "after conv 2", "where": where}]}
surgery = sesurgery.apply(Net(C3).eval(), recipe, example_input=torch.randn(2, 3, 8, 8))
order = []
bottle = surgery.model.blocks[0].m[0]
for name in ("cv1", "cv2"):
    getattr(bottle, name).conv.register_forward_hook(lambda *_, name=name: order.append(name))
for edit in surgery.plan.edits[:1]:
    surgery.model.get_submodule(edit.path).register_forward_hook(lambda *_: order.append("se"))
surgery.model(torch.randn(2, 3, 8, 8))
verdict("" if order == ["cv1", "cv2", "se"] else f"called in the order {order}")
