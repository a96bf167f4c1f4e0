"""Coordinate attention as somebody writes it in a file of their own."""

import torch
from torch import nn

from sesurgery import extend


@extend.attention("my_coord", summary="coordinate attention of my own")
class MyCoord(nn.Module):
    def __init__(self, channels, reduction=32):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn, self.act = nn.BatchNorm2d(hidden), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        height, width = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        both = self.act(self.bn(self.conv1(torch.cat([rows, columns], 2))))
        rows, columns = both.split([height, width], 2)
        return x * self.conv_h(rows).sigmoid() * self.conv_w(columns.transpose(2, 3)).sigmoid()
