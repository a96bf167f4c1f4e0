"""A host with a layer in its own code and one behind a child: both run, once each."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Bottleneck(nn.Module):
    """Without a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.b(self.a(x))


class Stage(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.m, self.cv = nn.ModuleList([Bottleneck(width)]), nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        return self.cv(torch.cat([x] + [m(x) for m in self.m], 1))

    def forward_split(self, x):
        return self.cv(torch.cat([x] + [m(x) for m in self.m], 1))


net, x = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Stage(16), Stage(16)).eval(), torch.rand(1, 3, 16, 16)
surgery = sesurgery.apply(net, "se-3x3", example_input=x)
paths, ran = [edit.path for edit in surgery.plan.edits], []
for path in paths:
    surgery.model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
surgery.model(x)
verdict("" if len(paths) == 4 and sorted(ran) == sorted(paths) else f"planned {paths}, ran {ran}")
