"""What a forward goes by and is no attribute of the host: namespaces, globals, the class, autocast."""

import types

import torch
from case import Net, Two, verdict
from torch import nn

import sesurgery

SETTINGS = {"scale": 0.5}


class Base(Two):
    def __init__(self, width):
        super().__init__(width)
        self.cfg, self.opt, self.scales = types.SimpleNamespace(scale=0.5), {"scale": 0.5}, [0.5]
        self.drop, self.mask = nn.Dropout(0.5), None
        self.drop.scale = 0.5

    def forward(self, x):
        return x + self.branch(self.b(torch.relu(self.a(x))))


class Namespace(Base):
    def branch(self, y):
        return y * self.cfg.scale

    def change(self):
        return setattr(self.cfg, "scale", 2.0)


class Options(Base):
    def branch(self, y):
        return y * self.opt["scale"]

    def change(self):
        return self.opt.update(scale=2.0)


class Listed(Base):
    def branch(self, y):
        return y * self.scales[0]

    def change(self):
        return self.scales.__setitem__(0, 2.0)


class OfChild(Base):
    def branch(self, y):
        return y * self.drop.scale

    def change(self):
        return setattr(self.drop, "scale", 2.0)


class Global(Base):
    def branch(self, y):
        return y * SETTINGS["scale"]

    def change(self):
        return SETTINGS.update(scale=2.0)


class OfClass(Base):
    scale = 0.5

    def branch(self, y):
        return y * self.scale

    def change(self):
        return setattr(OfClass, "scale", 2.0)


class Empty(Base):
    def branch(self, y):
        return y if self.mask is None else y * self.mask

    def change(self):
        return setattr(self, "mask", 2.0)


class Precision(Base):
    def branch(self, y):
        return y.float() * 2 if torch.is_autocast_enabled("cpu") else y

    def change(self):
        return None


x = torch.randn(2, 3, 8, 8)
silent = []
for kind in (Namespace, Options, Listed, OfChild, Global, OfClass, Empty, Precision):
    SETTINGS["scale"] = OfClass.scale = 0.5
    net = Net(kind).eval()
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
    for block in (*net.blocks, *model.blocks):
        block.change()
    with torch.no_grad(), torch.autocast("cpu", enabled=kind is Precision):
        if not torch.equal(net(x), model(x)):
            silent.append(kind.__name__)
verdict(f"fixed without a check: {', '.join(silent)}" if silent else "")
