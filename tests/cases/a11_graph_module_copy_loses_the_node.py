"""torch.fx.symbolic_trace(model), operated: a deep copy computes the same, and a second apply keeps the first."""

import copy

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


x = torch.randn(2, 3, 8, 8)
model = sesurgery.apply(torch.fx.symbolic_trace(Net(Block)).eval(), "standard", example_input=x).model
problems = []
with torch.no_grad():
    gap = (model(x) - copy.deepcopy(model)(x)).abs().max().item()
if gap:
    problems.append(f"the deep copy keeps the weights of SE and does not run them: {gap:.3g}")
second = sesurgery.apply(model, "backbone-end", example_input=x, init="identity").model
with torch.no_grad():
    gap = (model(x) - second(x)).abs().max().item()
if gap:
    problems.append(f"a second apply that starts as identity takes the first one away: {gap:.3g}")
verdict("; ".join(problems))
