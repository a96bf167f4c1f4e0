"""`x += f(x)` in a block changes the caller's tensor too, which a list of features still holds."""

import torch
from case import Net, Two, verdict

import sesurgery


class Block(Two):
    def forward(self, x):
        x += self.b(torch.relu(self.a(x)))
        return x


class Pyramid(Net):
    def forward(self, x):
        x = self.stem(x)
        features = [x]
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


x = torch.randn(2, 3, 8, 8)
net = Pyramid(Block).eval()
model = sesurgery.apply(net, "standard", example_input=x, init="identity").model
with torch.no_grad():
    gaps = [(a - b).abs().max().item() for a, b in zip(net(x), model(x), strict=True)]
verdict("" if not any(gaps) else f"features move by {[round(gap, 3) for gap in gaps]}")
