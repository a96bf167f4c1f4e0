"""Frames by unbind, as many as the input has: all pieces are used."""

import torch
import torch.nn.functional as F
from case import verdict
from torch import nn

import sesurgery


class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, clip):
        return self.head(torch.stack([F.relu(self.conv(frame)).mean((2, 3)) for frame in clip.unbind(1)]).mean(0))


recipe = {"name": "all", "rules": [{"insert": {"module": "se"}, "at": "after conv"}]}
net = Frames().eval()
try:
    model = sesurgery.apply(net, recipe, example_input=torch.randn(2, 4, 3, 8, 8), init="identity").model
except sesurgery.NothingMatchedError as refusal:  # one layer for all frames is not what the recipe asks for
    verdict("" if "would call self.se 4 times" in str(refusal) else str(refusal))
x = torch.randn(2, 9, 3, 8, 8)
with torch.no_grad():
    verdict("" if torch.equal(net(x), model(x)) else "differs on a longer clip")
