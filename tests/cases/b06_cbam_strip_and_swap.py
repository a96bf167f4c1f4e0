"""CBAM as everybody writes it, channel gate and spatial gate: it leaves as a whole, and is not stacked on."""

import torch
import torch.nn.functional as F
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Channel(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1))

    def forward(self, x):
        return torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(F.adaptive_max_pool2d(x, 1)))


class Spatial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)))


class Cbam(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ca, self.sa = Channel(width), Spatial()

    def forward(self, x):
        x = self.ca(x) * x
        return self.sa(x) * x


class Inside(Two):
    def __init__(self, width):
        super().__init__(width)
        self.ca, self.sa = Channel(width), Spatial()

    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        y = self.ca(y) * y
        y = self.sa(y) * y
        return x + y


class AsModule(Two):
    def __init__(self, width):
        super().__init__(width)
        self.cbam = Cbam(width)

    def forward(self, x):
        return x + self.cbam(self.b(torch.relu(self.a(x))))


class Bare(Two):
    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


x = torch.randn(2, 3, 8, 8)
problems = []
for kind in (AsModule, Inside):
    net, bare = Net(kind).eval(), Net(Bare).eval()
    bare.load_state_dict(net.state_dict(), strict=False)
    for recipe in ("strip-attention", "swap-attention"):
        try:
            model = sesurgery.apply(net, recipe, example_input=x).model
            with torch.no_grad():
                if recipe == "strip-attention" and not torch.allclose(model(x), bare(x), atol=1e-6):
                    problems.append(f"{kind.__name__} {recipe}: not the bare block")
        except sesurgery.NothingMatchedError:
            pass
        except Exception as error:
            problems.append(f"{kind.__name__} {recipe}: {type(error).__name__}: {error}")
try:
    plan = sesurgery.plan(Net(AsModule), "standard", example_input=x)
    problems.append(f"standard stacks on it: {[edit.path for edit in plan.edits]}")
except sesurgery.NothingMatchedError:
    pass
verdict("; ".join(problems))
