"""@torch.no_grad() on forward: no graph behind its output, as before."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    @torch.no_grad()
    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


x = torch.randn(2, 3, 8, 8)
net = Net(Block)
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
old, new = net.blocks(net.stem(x)).requires_grad, model.blocks(model.stem(x)).requires_grad
verdict("" if old == new else f"output.requires_grad was {old} and is {new}: the decorator is lost")
