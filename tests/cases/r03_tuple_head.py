"""A head that returns a tuple is a skip with a reason, never an AttributeError; the backbone ends before it."""

import torch
from case import verdict
from torch import nn

import sesurgery


def unit(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Bottleneck(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = unit(width, width), unit(width, width)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        parts = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 5, 1)) for _ in range(2)]
        self.cv = nn.ModuleList(parts)

    def forward(self, xs):
        xs = [cv(x) for cv, x in zip(self.cv, xs, strict=True)]
        self.anchors = torch.arange(xs[0].shape[-1])
        return torch.cat([x.flatten(2) for x in xs], 2), xs


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(unit(3, 16, 2), Bottleneck(16), unit(16, 16, 2), Bottleneck(16), Head(16))

    def forward(self, x):
        a = self.model[1](self.model[0](x))
        b = self.model[3](self.model[2](a))
        return self.model[4]([a, b])


net, problems = Detector().eval(), []
for at in ("end of block", "end of stage"):
    recipe = {"name": "r", "rules": [{"insert": {"module": "se"}, "at": at}]}
    try:
        plan = sesurgery.plan(net, recipe, input_size=(3, 64, 64))
        said = [skip.reason for skip in plan.skipped if skip.path == "model.4"]
    except sesurgery.NothingMatchedError as error:
        said = [str(error)] if "model.4" in str(error) else []
    if not any("more than one activation" in reason for reason in said):
        problems.append(f"{at}: {said}")
plan = sesurgery.plan(net, "backbone-end", input_size=(3, 64, 64))
if [edit.host for edit in plan.edits] != ["model.3"]:
    problems.append(f"end of backbone: {[edit.path for edit in plan.edits]}")
verdict("; ".join(problems))
