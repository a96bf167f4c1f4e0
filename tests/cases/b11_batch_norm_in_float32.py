"""Half precision with batch norms in float32: the layer has the dtype of the activation that it takes."""

import torch
from case import Net, Two, verdict
from torch import nn

import sesurgery


class Block(Two):
    def __init__(self, width):
        super().__init__(width)
        a, b = self.a, self.b
        del self.a, self.b
        self.bn, self.a, self.b = nn.BatchNorm2d(width), a, b  # the norm comes first

    def forward(self, x):
        return x + self.b(self.a(torch.relu(self.bn(x))))


net, x = Net(Block).bfloat16().eval(), torch.randn(2, 3, 8, 8).bfloat16()
net.head.float()
for module in net.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.float()
net(x)
try:
    surgery = sesurgery.apply(net, "standard", example_input=x, init="identity")
    verdict("" if torch.equal(surgery.model(x), net(x)) else "differs")
except sesurgery.SurgeryError as error:
    verdict(f"refused: {error}")
except RuntimeError as error:
    verdict(f"RuntimeError: {error}")
