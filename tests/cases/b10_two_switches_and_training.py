"""Two switches of a block, and `training` asked for behind the second."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def __init__(self, width):
        super().__init__(width)
        self.use_act = self.use_skip = True

    def forward(self, x):
        y = self.a(x)
        if self.use_act:
            y = torch.relu(y)
        y = self.b(y)
        if self.use_skip:
            if self.training:
                y = y * torch.empty(y.shape[0], 1, 1, 1).bernoulli_(0.5)
            y = y + x
        return y


x = torch.randn(2, 3, 8, 8)
net = Net(Block)
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
problems = []
for training in (False, True):
    for act in (False, True):
        for skip in (False, True):
            outputs = []
            for each in (net, model):
                for block in each.blocks:
                    block.use_act, block.use_skip = act, skip
                torch.manual_seed(1)
                outputs.append(each.train(training)(x))
            if not torch.equal(*outputs):
                problems.append(f"differs where training={training}, use_act={act}, use_skip={skip}")
verdict("; ".join(problems))
