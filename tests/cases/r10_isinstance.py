"""A forward that asks isinstance(x, dict), as YOLOs do where a dict means the loss; and predict() sees the layer."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x, *args, **kwargs):
        if isinstance(x, dict):
            return self.loss(x)
        return self.predict(x, *args, **kwargs)

    def predict(self, x, scale=1.0, embed=False):
        x = self.stem(x)
        x = x + self.a(x)
        if embed:
            return x.mean((2, 3))
        return self.head(x) * scale

    def loss(self, batch):
        return (self.forward(batch["img"]) - batch["y"]).pow(2).mean()


net, x = Detector().eval(), torch.rand(1, 3, 8, 8)
surgery = sesurgery.apply(net, "standard", example_input=x, init="identity")
model = surgery.model
batch = {"img": x, "y": torch.zeros(1, 2, 8, 8)}
ways = {
    "a tensor": lambda each: each(x),
    "a dict": lambda each: each(batch),
    "predict": lambda each: each.predict(x),
    "scale=2": lambda each: each(x, scale=2.0),
    "embed": lambda each: each(x, embed=True),
}
problems = [f"{name} differs" for name, way in ways.items() if not torch.equal(way(net), way(model))]
for parameter in surgery.new_parameters():
    nn.init.normal_(parameter)
problems += [f"{name} does not see the layer" for name, way in ways.items() if torch.equal(way(net), way(model))]
verdict("; ".join(problems))
