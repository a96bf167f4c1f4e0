"""A block that asks hasattr(self, "reparam"): the switch works after the operation as on the original."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Rep(nn.Module):
    def __init__(self, width, keep):
        super().__init__()
        self.keep, self.act = keep, nn.ReLU()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        if hasattr(self, "reparam"):
            return self.act(self.reparam(x))
        return self.act(self.a(x) + self.b(x))

    def switch(self):
        weight = self.a.weight.data.clone()
        weight[:, :, 1:2, 1:2] += self.b.weight.data
        self.reparam = nn.Conv2d(*weight.shape[1::-1], 3, padding=1)
        self.reparam.weight.data, self.reparam.bias.data = weight, self.a.bias.data + self.b.bias.data
        if not self.keep:
            del self.a, self.b


x, problems = torch.rand(1, 3, 8, 8), []
recipe = {"name": "r", "rules": [{"insert": {"module": "se"}, "at": "end of block"}]}
for keep in (False, True):
    surgery = sesurgery.apply(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Rep(8, keep), Rep(8, keep)).eval(), recipe, example_input=x
    )
    model = surgery.model
    with torch.no_grad():
        before = model(x)
        for module in model.modules():
            if isinstance(module, Rep):
                module.switch()
        gap = (model(x) - before).abs().max().item()
        if gap > 1e-5 and not surgery.notes:
            problems.append(f"keep={keep}: the output moved by {gap:.3g}, and no note")
        after = model(x)
        for module in model.modules():
            if isinstance(module, Rep):
                nn.init.zeros_(module.reparam.weight)
        if torch.equal(after, model(x)):
            problems.append(f"keep={keep}: the new convolution is not run")
verdict("; ".join(problems))
