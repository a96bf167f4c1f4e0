"""Variable(x), as_tensor(x), torch.tensor(x), torch.Tensor(x), vmap(f)(x), a reentrant checkpoint."""

import torch
import torch.utils.checkpoint
from case import Net, Two, trains_alike, verdict

import sesurgery

WAYS = {
    "Variable": torch.autograd.Variable,
    "as_tensor": torch.as_tensor,
    "tensor": torch.tensor,
    "Tensor": torch.Tensor,
    "vmap": torch.vmap(torch.relu),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=True),
}


class Block(Two):
    way = ""

    def forward(self, x):
        return x + self.b(WAYS[self.way](self.a(x)))


x = torch.randn(2, 3, 8, 8)
problems = []
for way in WAYS:
    Block.way = way
    net = Net(Block)
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
    if not trains_alike(net, model, x):
        problems.append(f"{way} differs")
verdict("; ".join(problems))
