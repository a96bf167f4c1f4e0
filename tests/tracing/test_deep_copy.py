"""Copies of models: what copy.deepcopy gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn
from torch.nn.utils import prune

import sesurgery
from sesurgery.tracing.deep_copy import deep_copy, is_plain

IMAGE = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """With state of many kinds, some of it shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.norm = nn.BatchNorm2d(8)
        self.sizes: dict[str, list[int]] = {"a": [1, 2]}
        self.again = self.sizes["a"]
        self.also = self.conv
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.plain = torch.ones(8, 1, 1)
        self.empty: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)) * self.plain


class ItsAttributes(Block):
    """Its state is the very dict of its attributes."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


class NoDict(Block):
    def __getstate__(self) -> Any:
        return self.__dict__.copy(), 5

    def __setstate__(self, state: Any) -> None:
        attributes, number = state
        assert number == 5
        super().__setstate__(attributes)


class Itself(Block):
    def __deepcopy__(self, memo: dict[int, Any]) -> Itself:
        new = Itself()
        new.load_state_dict(self.state_dict())
        return new


KINDS = (Block, ItsAttributes, NoDict, Itself)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_what_deepcopy_gives(kind: type[Block]) -> None:
    model = nn.Sequential(conv(), kind())
    model.train()[1].norm.eval()
    model[1].register_forward_hook(print)
    ours, theirs = deep_copy(model, {}, is_plain), copy.deepcopy(model)
    for made in (ours, theirs):
        block = made[1]
        assert list(block.__dict__) == list(theirs[1].__dict__)
        assert block.also is block.conv is not model[1].conv
        assert block.again is block.sizes["a"] or kind is Itself
        assert block.sizes == {"a": [1, 2]}
        assert block.sizes is not model[1].sizes
        assert block.norm.training is theirs[1].norm.training
        assert list(block._forward_hooks.values()) == list(theirs[1]._forward_hooks.values())
        assert block.plain.data_ptr() != model[1].plain.data_ptr()
        assert block._non_persistent_buffers_set == {"seen"}
        assert all(torch.equal(one, two) for one, two in zip(made.parameters(), model.parameters(), strict=True))
        assert not {id(each) for each in made.parameters()} & {id(each) for each in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_planning_and_operating_leave_the_original_alone(kind: type[Block]) -> None:
    model = nn.Sequential(conv(), kind())
    wanted, attributes = copy.deepcopy(model), [dict(module.__dict__) for module in model.modules()]
    operated = sesurgery.apply(model, "standard", init="identity", example_input=IMAGE).model
    assert [dict(module.__dict__) for module in model.modules()] == attributes
    check_same(copy.deepcopy(wanted), model, IMAGE)
    check_same(wanted, operated, IMAGE)


def _pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("changed", [_pruned, nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_is_computed_anew_in_each_forward_is_copied(changed: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(conv(), Block())
    changed(model[1].conv)
    model(IMAGE)
    surgery = sesurgery.apply(model, "standard", init="identity", example_input=IMAGE)
    assert torch.equal(surgery.model.eval()(IMAGE), model.eval()(IMAGE))
    assert sesurgery.verify(model, surgery.model)
    surgery.model.train()(IMAGE).mean().backward()
    assert all(parameter.grad is not None for parameter in surgery.model[1].conv.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
