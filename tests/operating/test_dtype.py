"""An inserted layer takes the dtype of what it acts on, in the very model that is operated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import Residual
from torch import Tensor, nn

import sesurgery

BF16 = torch.bfloat16
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class NormFirst(nn.Module):
    """The nearest weights are those of a norm, which is kept in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(self.norm(x)).relu())


class WideEnd(nn.Module):
    """The nearest weights are bfloat16, and the branch ends in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() + self.norm(self.conv2(self.conv1(x).relu()).float())).to(x.dtype)


class OwnAutocast(NormFirst):
    """Weights are float32, and the block runs in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", BF16):
            return x + self.conv2(self.conv1(self.norm(x)).relu())


class NarrowSum(NormFirst):
    """Weights are float32, and the author casts what they give."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(BF16) + self.conv2(self.conv1(self.norm(x)).relu()).to(BF16)).to(x.dtype)


class LooksAtValues(nn.Module):
    """Planning then runs with numbers, on the CPU, where autocast is at work."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.abs().max() < 1e6 else x / 1e6


def mixed(block: type[nn.Module]) -> nn.Module:
    """bfloat16, but for norms."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), block(), block()).to(BF16).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return model


def dtypes(model: nn.Module, kind: str = ".se.") -> set[torch.dtype]:
    return {parameter.dtype for name, parameter in model.named_parameters() if kind in name}


@pytest.mark.parametrize(("block", "dtype"), [(NormFirst, BF16), (WideEnd, torch.float32)])
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_it_is_the_dtype_of_the_activation(block: type[nn.Module], dtype: torch.dtype, init: str) -> None:
    original, x = mixed(block), X.to(BF16)
    surgery = sesurgery.apply(original, "standard", example_input=x, init=init)
    assert dtypes(surgery.model) == {dtype}
    result = sesurgery.verify(original, surgery.model, x)
    assert result, result
    assert result.identical is (init == "identity")


def test_a_plan_does_not_fix_it() -> None:
    whole = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), NormFirst(), NormFirst()).eval()
    plan = sesurgery.plan(whole, "standard", example_input=X)
    assert dtypes(sesurgery.apply(whole, plan, example_input=X).model) == {torch.float32}
    assert dtypes(sesurgery.apply(mixed(NormFirst), plan, example_input=X.to(BF16)).model) == {BF16}


@pytest.mark.parametrize("change", [lambda model: model.to(BF16), lambda model: model.double()])
def test_a_model_of_one_dtype_keeps_it(change: Callable[[nn.Module], nn.Module]) -> None:
    model = change(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Residual(8)).eval())
    (dtype,) = dtypes(model, "")
    assert dtypes(sesurgery.apply(model, "standard", input_size=(3, 16, 16)).model, "") == {dtype}


def test_under_an_autocast_of_its_own_weights_stay_wide() -> None:
    original = nn.Sequential(LooksAtValues(), nn.Conv2d(3, 8, 3, padding=1), OwnAutocast()).eval()
    surgery = sesurgery.apply(original, "standard", example_input=X)
    assert dtypes(surgery.model) == {torch.float32}
    assert surgery.model(X).shape == original(X).shape


@pytest.mark.parametrize("at", ["before residual add", "after residual add"])
def test_behind_a_cast_that_is_written_out_they_are_as_narrow(at: str) -> None:
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), NarrowSum()).eval()
    rule = {"rules": [{"insert": {"module": "se", "rd_channels": 2, "init": "identity"}, "at": at}]}
    surgery = sesurgery.apply(original, rule, example_input=X)
    assert dtypes(surgery.model) <= {BF16, torch.float32}
    assert sesurgery.verify(original, surgery.model, X)
