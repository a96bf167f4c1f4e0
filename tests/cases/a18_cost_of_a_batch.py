"""Costs are per sample: they do not depend on the batch of the example."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


macs = {n: sesurgery.plan(Net(Block), "standard", example_input=torch.randn(n, 3, 8, 8)).after.macs for n in (1, 8)}
verdict("" if macs[1] == macs[8] else f"MACs of one sample by the batch of the example: {macs}")
