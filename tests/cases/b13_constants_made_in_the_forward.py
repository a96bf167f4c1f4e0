"""Constants that a forward makes from numbers, torch.max(y, torch.zeros(1)): the block is a host."""

import torch
from case import Net, Two, verdict

import sesurgery


class Clamp(Two):
    def forward(self, x):
        return x + self.b(torch.max(self.a(x), torch.zeros(1)))


class Where(Two):
    def forward(self, x):
        y = self.a(x)
        return x + self.b(torch.where(y > 0, y, torch.tensor(0.0)))


refused = []
for kind in (Clamp, Where):
    try:
        sesurgery.plan(Net(kind), "standard", example_input=torch.randn(2, 3, 8, 8))
    except sesurgery.NothingMatchedError as error:
        refused.append(f"{kind.__name__}: {str(error)[60:220]}")
verdict("; ".join(refused))
