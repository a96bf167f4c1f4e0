"""Convolutions that lie in no block (U-Net, recursive U-Net): each has an edit or a skip."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Double(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(
            nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU()
        )


class DoubleConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.double_conv = Double(i, o)

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.pool, self.conv = nn.MaxPool2d(2), DoubleConv(i, o)

    def forward(self, x):
        return self.conv(self.pool(x))


class Up(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(i, i // 2, 2, 2), DoubleConv(i, o)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], 1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(3, 8), Down(8, 16), Down(16, 32)
        self.up1, self.up2, self.out = Up(32, 16), Up(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        a = self.inc(x)
        b = self.down1(a)
        return self.out(self.up2(self.up1(self.down2(b), b), a))


class Level(nn.Module):
    def __init__(self, i, inside):
        super().__init__()
        down, up = nn.Conv2d(i, 2 * i, 4, 2, 1), nn.ConvTranspose2d(4 * i if inside else 2 * i, i, 4, 2, 1)
        self.model = nn.Sequential(down, nn.ReLU(), *([inside] if inside else []), up, nn.ReLU())

    def forward(self, x):
        return torch.cat([x, self.model(x)], 1)


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Level(3, Level(6, Level(12, None)))

    def forward(self, x):
        return self.model(x)


problems = []
for kind in (UNet, Recursive):
    net = kind()
    plan = sesurgery.plan(net, "se-3x3", example_input=torch.randn(1, 3, 32, 32))
    convs = [
        path for path, module in net.named_modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    ]
    said = len(plan.edits) + len([skip for skip in plan.skipped if skip.path])
    if said < len(convs):
        problems.append(
            f"{kind.__name__}: {len(convs)} spatial convolutions, {len(plan.edits)} edits, {len(plan.skipped)} skips"
        )
verdict("; ".join(problems))
