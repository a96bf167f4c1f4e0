"""Two switches and `training`: each way of each is right afterwards."""

import torch
import torch.nn.functional as F
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    use_act = use_skip = True

    def __init__(self, width):
        super().__init__(width)
        self.use_act = self.use_skip = True

    def forward(self, x):
        y = self.a(x)
        if self.training:
            y = y * 2
        if self.use_act:
            y = F.relu(y)
        y = self.b(y)
        if self.use_skip:
            y = y + x
        return y


x = torch.randn(2, 3, 8, 8)
net = Net(Block)
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
problems = []
for mode in (False, True):
    for block in (*net.blocks, *model.blocks):
        block.use_skip = False
    gap = (net.train(mode)(x) - model.train(mode)(x)).abs().max().item()
    if gap:
        problems.append(f"training={mode}: use_skip=False is ignored, off by {gap:.3g}")
verdict("; ".join(problems))
