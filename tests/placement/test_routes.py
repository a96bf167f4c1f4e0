"""Where a layer goes whose site's own host cannot take it."""

from __future__ import annotations

import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn

import sesurgery


class Dense(nn.Sequential):
    """Its forward calls every child, so that a layer among them would be called too."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self:
            features.append(layer(features[-1]))
        return torch.cat(features, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Sequential(conv(), nn.ReLU()), nn.Sequential(nn.ReLU(), Dense(conv(), conv())))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x).mean((2, 3))


def test_around_sequentials_it_goes_into_the_code_that_calls_them() -> None:
    model, image = Net(), torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, "concat", example_input=image, init="identity")
    (edit,) = surgery.plan.edits
    assert (edit.path, edit.host, edit.channels) == ("se", "", 24)
    check_same(model, surgery.model, image)
