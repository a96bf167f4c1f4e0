"""An ImageNet ResNet on 32 x 32 images: `last` means layer4, se-3x3 and backbone-end reach it or say why not."""

import torch
import torchvision
from case import verdict

import sesurgery

model = torchvision.models.resnet18()
x = torch.randn(2, 3, 32, 32)
problems = []
for recipe, stages in (("standard", "last"), ("backbone-end", None), ("se-3x3", None)):
    plan = sesurgery.plan(model, recipe, example_input=x, stages=stages)
    paths = [edit.path for edit in plan.edits] + [skip.path for skip in plan.skipped if "stage" not in skip.reason]
    if not any(path.startswith("layer4") for path in paths):
        problems.append(f"{recipe} --stages {stages}: {len(plan.edits)} edits, the last at {plan.edits[-1].path}")
verdict("; ".join(problems))
