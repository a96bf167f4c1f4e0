"""Conv+bn fusion as detectors do it, m.forward = m.forward_fuse: every layer still runs, or a note said so."""

import copy

import torch
from case import verdict
from torch import nn

import sesurgery


class Conv(nn.Module):
    def __init__(self, i, o, k=1):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class C2f(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width), Conv(2 * width, width)
        self.m = nn.ModuleList([Conv(width // 2, width // 2, 3) for _ in range(2)])

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


def fuse(model):
    for module in model.modules():
        if isinstance(module, Conv) and hasattr(module, "bn"):
            module.conv = torch.nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            del module.bn
            module.forward = module.forward_fuse
    return model


x, problems = torch.rand(1, 3, 16, 16), []
net = nn.Sequential(Conv(3, 16, 3), C2f(16), C2f(16)).eval()
with torch.no_grad():
    for name, start in (("fused later", net), ("fused first", fuse(copy.deepcopy(net)))):
        for at in ("end of block", "after conv", "after concat", "end of backbone"):
            recipe = {"name": "r", "rules": [{"insert": {"module": "se"}, "at": at}]}
            surgery = sesurgery.apply(start, recipe, example_input=x)
            before = surgery.model(x)
            gap = (fuse(surgery.model)(x) - before).abs().max().item()
            if gap > 1e-5 and not surgery.notes:
                problems.append(f"{name}, {at}: moved by {gap:.3g}, and no note")
verdict("; ".join(problems))
