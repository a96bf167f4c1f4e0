"""Variable(x), as_tensor(x), torch.tensor(x), torch.Tensor(x), vmap(f)(x), a reentrant checkpoint."""

import torch
import torch.utils.checkpoint
from case import Net, Two, verdict

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
    gradients = []
    for each in (net, model):
        output = each(x)
        output.square().sum().backward()
        gradients.append([output, *(parameter.grad for parameter in (each.stem.weight, each.blocks[0].b.weight))])
    for one, two in zip(*gradients, strict=True):
        if (one is None) != (two is None) or (one is not None and not torch.equal(one, two)):
            problems.append(f"{way} differs")
verdict("; ".join(problems))
