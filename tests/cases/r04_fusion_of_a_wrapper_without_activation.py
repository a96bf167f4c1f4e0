"""A Conv wrapper with act=Identity: fusion deletes its norm, and the layer stays, or a note said it would not."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Conv(nn.Module):
    def __init__(self, i, o, k=1, act=True):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width, 3, act), Conv(width, width, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


x, problems = torch.rand(1, 3, 16, 16), []
after_conv_1 = {"name": "r", "rules": [{"insert": {"module": "se"}, "at": "after conv 1"}]}
for act, recipe in ((True, "yolov5-c3"), (False, after_conv_1)):
    net = nn.Sequential(Conv(3, 16, 3), Bottleneck(16, act), Bottleneck(16, act)).eval()
    surgery = sesurgery.apply(net, recipe, example_input=x)
    with torch.no_grad():
        before = surgery.model(x)
        for module in surgery.model.modules():
            if isinstance(module, Conv) and hasattr(module, "bn"):
                module.conv = torch.nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
                del module.bn
                module.forward = module.forward_fuse
        gap = (surgery.model(x) - before).abs().max().item()
    kept = sum(".se" in key for key in surgery.model.state_dict())
    if (gap > 1e-5 or kept != 8) and not surgery.notes:
        problems.append(f"act={act}: moved by {gap:.3g}, {kept} of 8 keys left, and no note")
verdict("; ".join(problems))
