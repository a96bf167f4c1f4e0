"""SE as the last layer of a Sequential that is the branch: "already has attention"."""

import torch
from case import SE, Net, verdict
from torch import nn

import sesurgery


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), SE(width)
        )

    def forward(self, x):
        return x + self.body(x)


try:
    plan = sesurgery.plan(Net(Block), "standard", example_input=torch.randn(2, 3, 8, 8))
    verdict(f"inserted on top of the SE that is there: {[edit.path for edit in plan.edits]}")
except sesurgery.NothingMatchedError as error:
    verdict("" if "already has attention" in str(error) else str(error))
