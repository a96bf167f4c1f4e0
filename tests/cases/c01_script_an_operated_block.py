"""torch.jit.script works on operated blocks as it did on the author's."""

import torch
from case import Net, Two, verdict

import sesurgery


class Switch(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        if self.training:
            y = y * 0.5
        return x + y


class Size(Two):
    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        if x.shape[2] != x.shape[3]:
            y = y * 0.5
        return x + y


x = torch.randn(2, 3, 8, 8)
problems = []
for kind in (Switch, Size):
    net = Net(kind).eval()
    torch.jit.script(net)
    try:
        torch.jit.script(sesurgery.apply(net, "standard", example_input=x).model)
    except Exception as error:
        problems.append(f"{kind.__name__}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
verdict("; ".join(problems))
