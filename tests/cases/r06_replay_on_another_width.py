"""A plan replayed on another width is a StalePlanError for every kind of layer, and the model is left alone."""

from case import verdict
from torch import nn

import sesurgery


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


def net(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), Block(width), Block(width)).eval()


problems = []
for module in ("se", "cbam", "eca"):
    plan = sesurgery.plan(net(16), "standard", module=module, input_size=(3, 16, 16))
    other = net(256)
    kinds, keys = [type(each) for each in other.modules()], list(other.state_dict())
    try:
        sesurgery.apply(other, plan, input_size=(3, 16, 16), inplace=True)
        problems.append(f"{module}: accepted")
    except sesurgery.StalePlanError:
        pass
    if kinds != [type(each) for each in other.modules()] or keys != list(other.state_dict()):
        problems.append(f"{module}: the model was changed")
verdict("; ".join(problems))
