"""A frozen part inside the forward under torch.no_grad(): the frozen convolution still gets no gradient."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
        return x + self.b(torch.relu(y))


x = torch.randn(2, 3, 8, 8)
model = sesurgery.apply(Net(Block), "standard", example_input=x, init="identity").model
model(x).sum().backward()
grad = model.blocks[0].a.weight.grad
verdict("" if grad is None else f"the part under no_grad is trained now: |grad| = {grad.abs().sum():.3g}")
