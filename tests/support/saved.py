"""What the tests of artefacts share: tiny operated networks, and looking into folders."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import TINY
from torch import nn

import sesurgery

RECORD = "surgery.json"


def tiny(recipe: str = "standard", model: str | nn.Module = TINY, **kwargs: Any) -> sesurgery.Surgery:
    """An operated tiny network whose every weight and buffer is a number of its own."""
    surgery = sesurgery.apply(model, recipe, **kwargs)
    shake(surgery.model)
    return surgery


def shake(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        else:
            tensor.add_(3)


def output(model: nn.Module, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    first = next(model.parameters())
    with torch.no_grad():
        return copy.deepcopy(model).eval()(torch.rand(1, 3, size, size, generator=generator).to(first.dtype))


def assert_same(one: nn.Module, two: nn.Module) -> None:
    old, new = one.state_dict(), two.state_dict()
    assert list(old) == list(new)
    for key in old:
        assert old[key].dtype == new[key].dtype, key
        assert torch.equal(old[key], new[key]), key
    kinds = [(path, type(module).__mro__[1:]) for path, module in one.named_modules()]
    assert kinds == [(path, type(module).__mro__[1:]) for path, module in two.named_modules()]
    assert torch.equal(output(one), output(two))


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = record_of(folder)
    change(record)
    (folder / RECORD).write_text(json.dumps(record))
