"""The forward reads `training` of a child, F.dropout(x, self.drop.p, self.drop.training): dropout still drops."""

import torch
import torch.nn.functional as F
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Block(Two):
    def __init__(self, width):
        super().__init__(width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return x + self.b(F.dropout(torch.relu(self.a(x)), self.drop.p, self.drop.training))


x = torch.randn(2, 3, 8, 8)
model = sesurgery.apply(Net(Block), "standard", example_input=x, init="identity").model.train()
verdict("" if not torch.equal(model(x), model(x)) else "no dropout while training any more")
