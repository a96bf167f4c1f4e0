"""A function under @torch.jit.script in a forward, as timm had swish and mish."""

import torch
import torch.nn.functional as F
from case import Net, Two, trains_alike, verdict

import sesurgery


@torch.jit.script
def mish(x):
    return x * torch.tanh(F.softplus(x))


class Block(Two):
    def forward(self, x):
        return x + self.b(mish(self.a(x)))


x = torch.randn(2, 3, 8, 8)
net = Net(Block)
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
verdict("" if trains_alike(net, model, x) else "it differs")
