"""Containers that run their own children, `for m in self.children()`: each inserted layer is called once."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Stack(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class Several(nn.Sequential):
    def forward(self, *inputs):
        for layer in self._modules.values():
            inputs = layer(*inputs) if isinstance(inputs, tuple) else layer(inputs)
        return inputs


x, problems = torch.randn(2, 3, 8, 8), []
for kind in (Stack, lambda i, o: Several(nn.Conv2d(i, o, 3, padding=1), nn.ReLU())):
    parts = [kind(3, 8), nn.MaxPool2d(2), kind(8, 16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)]
    calls = []
    try:
        surgery = sesurgery.apply(nn.Sequential(*parts).eval(), "plain", example_input=x)
    except sesurgery.NothingMatchedError as refusal:
        problems += [] if "would call self.se 2 times" in str(refusal) else [str(refusal)]
        continue
    paths = [edit.path for edit in surgery.plan.edits]
    for path in paths:
        layer = surgery.model.get_submodule(path)
        layer.register_forward_hook(lambda *_, path=path, calls=calls: calls.append(path))
    surgery.model(x)
    if sorted(calls) != sorted(paths):
        problems.append(f"calls of the layers: {calls}")
verdict("; ".join(problems))
