"""Stochastic depth by Python's, NumPy's or torch's numbers: two training forwards differ as they did before."""

import random

import numpy as np
import torch
from case import Net, Two, verdict

import sesurgery


class Depth(Two):
    def forward(self, x):
        if self.training and random.random() < 0.5:
            return x
        return x + self.b(torch.relu(self.a(x)))


class Item(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        if self.training:
            y = y * torch.rand(1).item()
        return x + y


class Numpy(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        return x + y * np.random.rand() if self.training else x + y


x = torch.randn(2, 3, 8, 8)
problems = []
for kind in (Depth, Item, Numpy):
    net = Net(kind)
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model.train()
    with torch.no_grad():
        old = len({round(net.train()(x).sum().item(), 6) for _ in range(20)})
        new = len({round(model(x).sum().item(), 6) for _ in range(20)})
    if new == 1 and old > 1:
        problems.append(f"{kind.__name__}: {old} different results of 20 before, 1 after")
verdict("; ".join(problems))
