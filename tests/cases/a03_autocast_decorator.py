"""Autocast as a decorator of forward, and as a block inside of it: the same precision afterwards."""

import torch
from case import Net, Two, verdict

import sesurgery


class Decorated(Two):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x):
        return self.b(torch.relu(self.a(x))) + x.to(torch.bfloat16)


class Inside(Two):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):  # a part that has to stay in float32
            y = self.b(torch.relu(self.a(x.float())))
        return x.float() + y


class Late(Two):
    def forward(self, x):
        return x + self.b(self.a(x))


x = torch.randn(2, 3, 8, 8)
problems = []
for kind, outer in ((Decorated, False), (Inside, True)):
    net = Net(kind).eval()
    model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer):
        old, new = net.blocks[0](net.stem(x)), model.blocks[0](model.stem(x))
    if old.dtype != new.dtype or not torch.equal(old, new):
        problems.append(f"{kind.__name__}: {old.dtype} -> {new.dtype}")
verdict("; ".join(problems))
