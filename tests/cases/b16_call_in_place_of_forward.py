"""Modules that define __call__ and no forward: refused with a reason, the rest stays within reach."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Unit(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)

    def __call__(self, x):
        return x + self.b(torch.relu(self.a(x)))


net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Unit(8), Unit(8)))
try:
    plan = sesurgery.plan(net, "standard", example_input=torch.randn(2, 3, 8, 8))
    verdict("" if len(plan.edits) == 2 else f"{len(plan.edits)} edits")
except sesurgery.SurgeryError:
    verdict("")
except ValueError as error:
    verdict(f"ValueError: {error}")
