"""An in-place step on the branch whose result is not taken, y.mul_(scale): it stays."""

import torch
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Scaled(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        y.mul_(0.1)
        return x + y


class Rectified(Two):
    def __init__(self, width):
        super().__init__(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        self.relu(y)
        return x + y


class Masked(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        y.masked_fill_(y < 0, 0.0)
        return x + y


x = torch.randn(2, 3, 8, 8)
problems = []
for kind in (Scaled, Rectified, Masked):
    net = Net(kind).eval()
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
    with torch.no_grad():
        gap = (net(x) - model(x)).abs().max().item()
    if gap:
        problems.append(f"{kind.__name__}: identity start moves the output by {gap:.3g}")
verdict("; ".join(problems))
