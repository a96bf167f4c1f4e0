"""A function under @torch.jit.script in a forward, as timm had swish and mish."""

import torch
import torch.nn.functional as F
from case import Net, Two, verdict

import sesurgery


@torch.jit.script
def mish(x):
    return x * torch.tanh(F.softplus(x))


class Block(Two):
    way = ""

    def forward(self, x):
        return x + self.b(mish(self.a(x)))


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
