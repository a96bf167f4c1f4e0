"""A head that concatenates boxes along the anchors, (N, A, 4): no layer there, and the backbone ends at l.1."""

import torch
import torch.nn.functional as F
from case import Two, verdict
from torch import nn

import sesurgery


class Stage(Two):
    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Head(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.tower, self.predict = (
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            nn.Conv2d(width, out, 3, padding=1),
        )

    def forward(self, maps):
        found = [self.predict(self.tower(map_)) for map_ in maps]
        return torch.cat([y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4) for y in found], 1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.l = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([Stage(8), Stage(8)])
        self.cls, self.reg = Head(8, 8), Head(8, 4)

    def forward(self, x):
        maps, x = [], self.stem(x)
        for stage in self.l:
            x = F.max_pool2d(stage(x), 2)
            maps.append(x)
        return self.cls(maps), self.reg(maps)


x = torch.randn(2, 3, 16, 16)
problems = []
for recipe in ("backbone-end", "concat"):
    try:
        plan = sesurgery.plan(Detector(), recipe, example_input=x)
    except sesurgery.NothingMatchedError:
        continue
    wrong = [f"{edit.path} on {edit.channels}" for edit in plan.edits if edit.host in ("cls", "reg")]
    if wrong:
        problems.append(f"{recipe}: {', '.join(wrong)}")
verdict("; ".join(problems))
