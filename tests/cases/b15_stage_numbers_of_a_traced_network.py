"""The same ResNet as it is and through torch.fx.symbolic_trace: the same layers at --stages 4."""

import torch
import torchvision
from case import verdict

import sesurgery

x = torch.randn(1, 3, 64, 64)
names = {}
for name, net in (
    ("as it is", torchvision.models.resnet18()),
    ("traced", torch.fx.symbolic_trace(torchvision.models.resnet18())),
):
    plan = sesurgery.plan(net, "standard", example_input=x, stages="4")
    names[name] = sorted({edit.channels for edit in plan.edits})
verdict("" if names["as it is"] == names["traced"] else f"channels at --stages 4: {names}")
