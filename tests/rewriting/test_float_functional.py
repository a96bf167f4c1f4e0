"""Hosts that leave sums and products to torch.ao's FloatFunctional: quantisation finds them after surgery as before."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from checks import check_same
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import get_default_qat_qconfig, get_default_qat_qconfig_mapping, prepare_qat
from torch.ao.quantization.quantize_fx import prepare_qat_fx

import sesurgery


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.arithmetic = FloatFunctional()


class Add(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.arithmetic.add(x, self.conv(x))


class AddRelu(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.arithmetic.add_relu(x, self.conv(x))


class Cat(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.arithmetic.cat([x, self.conv(x)], dim=1)[:, 4:12]


class Gated(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.arithmetic.mul(self.conv(x), x.mean((2, 3), keepdim=True).sigmoid())


AFTER_CONCAT = {"name": "after-concat", "rules": [{"insert": {"module": "se", "reduction": 2}, "at": "after concat"}]}
CASES = [
    (Add, "standard", "self.arithmetic.add(x, "),
    (Add, "post", "self.arithmetic.add(x, self.conv(x))"),
    (AddRelu, "standard", "self.arithmetic.add_relu(x, "),
    (AddRelu, "post", "self.arithmetic.add_relu(x, self.conv(x))"),
    (Cat, AFTER_CONCAT, "arithmetic.cat("),
    (Gated, "standard", "arithmetic.mul("),
]


@pytest.mark.parametrize(("kind", "recipe", "line"), CASES)
def test_the_child_keeps_its_work(kind: type[Block], recipe: object, line: str) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), kind()).eval()
    image = torch.randn(2, 8, 6, 6)
    surgery = sesurgery.apply(model, recipe, example_input=(image,), init="identity")  # type: ignore[arg-type]
    assert [edit.host for edit in surgery.plan.edits] == ["1"]
    assert torch.equal(surgery.model(image), model(image))
    (change,) = surgery.plan.diffs
    assert line in change.before
    assert line in change.after
    check_same(model, surgery.model, image)
    model.eval()
    surgery.model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_qat_fx(
            copy.deepcopy(surgery.model).train(), get_default_qat_qconfig_mapping("x86"), (image,)
        )
        eager = copy.deepcopy(surgery.model).train()
        eager.qconfig = get_default_qat_qconfig("x86")  # type: ignore[assignment]
        prepare_qat(eager, inplace=True)
        for body in (prepared, eager):
            assert body(image).isfinite().all()
    observer = eager[1].arithmetic.activation_post_process  # type: ignore[union-attr]
    assert observer.activation_post_process.max_val > 0, "nothing was observed"
    assert torch.equal(sesurgery.revert(surgery.model)(image), model(image))
