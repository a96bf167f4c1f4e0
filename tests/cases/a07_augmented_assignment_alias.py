"""`y += f` changes every name of y: with an identity start the output is the same, bit for bit."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x):
        y = self.a(x)
        keep = y
        y += self.b(torch.relu(x))
        return x + torch.relu(keep)  # keep is y, after the addition


x = torch.randn(2, 3, 8, 8)
net = Net(Block).eval()
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
with torch.no_grad():
    gap = (net(x) - model(x)).abs().max().item()
verdict("" if gap == 0 else f"identity start moves the output by {gap:.3g}")
