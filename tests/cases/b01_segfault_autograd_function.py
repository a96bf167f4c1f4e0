"""A custom torch.autograd.Function in a forward: it runs, and the gradient stays the author's."""

import torch
from case import Net, Two, verdict

import sesurgery


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Block(Two):
    way = ""

    def forward(self, x):
        return x + self.b(Sign.apply(self.a(x)))


x = torch.randn(2, 3, 8, 8)
problems = []
for way in ("it",):
    Block.way = way
    net = Net(Block)
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
    gradients = []
    for each in (net, model):
        output = each(x)
        output.square().sum().backward()
        gradients.append([output, *(parameter.grad for parameter in (each.stem.weight, each.blocks[0].b.weight))])
    for one, two in zip(*gradients, strict=True):
        if (one is None) != (two is None) or (one is not None and not torch.equal(one, two)):
            problems.append(f"{way} differs")
verdict("; ".join(problems))
