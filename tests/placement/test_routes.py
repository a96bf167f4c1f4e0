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


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Decoder(nn.Module):
    """One concat in a loop: a layer behind it would be called in each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Unit(8), Unit(8)])
        self.up = nn.ModuleList([Unit(16), nn.Sequential(nn.Sequential(Unit(16)), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for unit in self.down:
            x = unit(x)
            skips.append(x)
        for unit in self.up:
            x = unit(torch.cat([x, skips.pop()], 1))
        return x


def test_in_a_loop_it_goes_into_the_forwards_of_the_children_that_take_the_value() -> None:
    model, image = Decoder().eval(), torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, "concat", example_input=image)
    assert [edit.path for edit in surgery.plan.edits] == ["up.0.se", "up.1.0.0.se"]
    first, second = (surgery.model.get_submodule(edit.path) for edit in surgery.plan.edits)
    one = model.down[0](image)
    two = model.down[1](one)
    middle = model.up[0](first(torch.cat([two, two], 1)))
    assert torch.equal(surgery.model(image), model.up[1](second(torch.cat([middle, one], 1))))
    check_same(model, sesurgery.apply(model, "concat", example_input=image, init="identity").model, image)


class Mixer(nn.Module):
    """Residual sums in a loop, with branches that are called in no other place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Unit(8), Unit(8)]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for mix, feed in self.layers:
            x = mix(x) + x
            x = feed(x) + x
        return x


def test_before_the_branches_of_a_loop() -> None:
    model, image = Mixer().eval(), torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, "pre", example_input=image)
    assert [edit.path for edit in surgery.plan.edits] == [f"layers.{i}.{j}.se" for i in (0, 1) for j in (0, 1)]
    x = image
    for layers, operated in zip(model.layers, surgery.model.layers, strict=True):
        for unit, edited in zip(layers, operated, strict=True):
            x = unit(edited.se(x)) + x
    assert torch.equal(surgery.model(image), x)
    check_same(model, sesurgery.apply(model, "pre", example_input=image, init="identity").model, image)


def test_where_all_turns_have_one_child_each_has_a_layer_in_the_loop() -> None:
    model, image = Decoder(), torch.randn(2, 8, 6, 6)
    model.up[1] = model.up[0]
    surgery = sesurgery.apply(model, "concat", example_input=image, init="identity")
    assert [edit.host for edit in surgery.plan.edits] == ["", ""]
    check_same(model, surgery.model, image)
