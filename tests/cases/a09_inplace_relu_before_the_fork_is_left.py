"""Pre-activation with ReLU(inplace=True), the identity is rectified too: the output stays, and training runs.

A refusal is right as well: a layer between would part the two."""

import torch
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Block(Two):
    def __init__(self, width):
        super().__init__(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(x)
        out = self.b(torch.relu(self.a(out)))
        return out + x


x = torch.randn(2, 3, 8, 8)
problems = []
for recipe in ("pre", "identity"):
    net = Net(Block).eval()
    model = sesurgery.apply(net, recipe, example_input=x, init="identity").model
    with torch.no_grad():
        gap = (net(x) - model(x)).abs().max().item()
    if gap:
        problems.append(f"{recipe}: identity start moves the output by {gap:.3g}")
    try:
        model(x).sum().backward()
    except RuntimeError as error:
        problems.append(f"{recipe}: backward fails: {str(error)[:60]}...")
verdict("; ".join(problems))
