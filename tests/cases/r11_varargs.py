"""`*args` and `**kwargs` of an operated forward are the author's."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, *args, **kwargs):
        y = self.a(x)
        if args:
            y = y * args[0]
        if kwargs.get("drop"):
            return x
        return x + y * kwargs.get("scale", 1.0)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.b, self.c = nn.Conv2d(3, 8, 1), Block(), Block()

    def forward(self, x, **kwargs):
        x = self.stem(x)
        for module in (self.b, self.c):
            x = module(x, **kwargs)
        return x


net, x = Outer().eval(), torch.rand(1, 3, 8, 8)
surgery = sesurgery.apply(net, "standard", example_input=x, init="identity")
problems = [] if [edit.host for edit in surgery.plan.edits] == ["b", "c"] else [f"{surgery.plan.edits}"]
for kwargs in ({}, {"scale": 2.0}, {"drop": True}):
    if not torch.equal(surgery.model(x, **kwargs), net(x, **kwargs)):
        problems.append(f"{kwargs} differs")
ones = torch.ones(1, 8, 4, 4)
if not torch.equal(surgery.model.b(ones, 3.0), net.b(ones, 3.0)):
    problems.append("a positional argument differs")
verdict("; ".join(problems))
