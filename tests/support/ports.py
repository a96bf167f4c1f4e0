"""A port of every layout, and what is asked of a layer on it."""

from __future__ import annotations

import torch
from torch import nn

from sesurgery.attention import Port

PORTS = {
    "nchw": Port((2, 16, 8, 8), 1),
    "nhwc": Port((2, 8, 8, 16), 3),
    "nlc": Port((2, 9, 16), 2),
    "ncl": Port((2, 16, 9), 1),
    "ncthw": Port((2, 16, 3, 4, 4), 1),
    "nthwc": Port((2, 3, 4, 4, 16), 4),
    "nc": Port((2, 16), 1),
    "n...c": Port((2, 2, 2, 3, 3, 16), 5),
}
MAP = PORTS["nchw"]


def sample(port: Port) -> torch.Tensor:
    return torch.randn(port.shape, generator=torch.Generator().manual_seed(0))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_all_gradients(node: nn.Module, port: Port) -> None:
    x = sample(port).requires_grad_()
    (node(x) * sample(port)).sum().backward()
    assert x.grad is not None
    assert [name for name, p in node.named_parameters() if p.grad is None] == []
