"""A list as an argument, then another one, and an attribute that says how much of it is read."""

import torch
from case import verdict
from torch import nn

import sesurgery


class Fuse(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.n, self.cv, self.cv2 = 2, nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, xs, mask=None):
        y = torch.cat([xs[i] for i in range(self.n)], 1)
        if mask is not None:
            y = y * mask
        return self.cv2(self.cv(y))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.f, self.g = Fuse(8), Fuse(8)

    def forward(self, x, mask=None):
        p, q = self.a(x), self.b(x)
        return self.g([self.f([p, q], mask), q], mask=mask)


net, x, problems = Several().eval(), torch.rand(1, 3, 16, 16), []
for at in ("after concat", "after conv", "end of block"):
    recipe = {"name": "r", "rules": [{"insert": {"module": "se", "init": "identity"}, "at": at}]}
    surgery = sesurgery.apply(net, recipe, example_input=x)
    hosts = {edit.host.split(".")[0] for edit in surgery.plan.edits}
    same = all(torch.equal(net(x, mask), surgery.model(x, mask)) for mask in (None, torch.rand(1, 1, 16, 16)))
    if hosts != {"f", "g"} or not same:
        problems.append(f"{at}: {hosts}, {'equal' if same else 'differs'}")
verdict("; ".join(problems))
