"""One block, called with and without its optional argument in one forward: all recorded calls are honoured."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x, skip=None):
        y = self.b(torch.relu(self.a(x)))
        if skip is not None:
            y = y + skip
        return x + y


class Shared(Net):
    def __init__(self):
        super().__init__(Block)

    def forward(self, x):
        x = self.stem(x)
        block = self.blocks[0]
        return self.head(block(block(x), skip=x).mean((2, 3)))


net, x = Shared().eval(), torch.randn(2, 3, 8, 8)
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
verdict("" if torch.equal(net(x), model(x)) else "differs")
