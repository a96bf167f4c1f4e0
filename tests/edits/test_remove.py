"""Removing: attention however it is written, convolutions, activations and norms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from checks import check_operated, rule, run, same_weights
from networks import Block, Gated, Net, Short, X
from timm.layers import BatchNormAct2d, SEModule
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import NothingMatchedError, StalePlanError
from sesurgery.models import zoo
from sesurgery.plans import Plan


class TwoGates(nn.Module):
    """Two gates in one forward, one of them by a function and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Conv2d(8, 8, 1)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()
        y = self.conv(y)
        gate = nn.functional.linear(y.mean((2, 3)), self.weight).sigmoid()
        y *= gate[:, :, None, None]
        return x + y


class Widening(nn.Module):
    """Its gate is another shape than what it gates would be without it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(8, 8, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x + self.conv(mean * self.fc(mean)).expand_as(x)


class WithNormAct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = BatchNormAct2d(8, act_layer=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x))


def removed(net: nn.Module, at: str, **options: Any) -> sesurgery.Surgery:
    return sesurgery.apply(net, rule(remove=options, at=at), example_input=X)


def gates(net: nn.Module, x: Tensor = X) -> list[str]:
    return [merge.path for merge in sesurgery.inspect(net, example_input=x).merges if merge.kind == "gate"]


def test_seresnet50_becomes_resnet50_bit_for_bit() -> None:
    native = zoo.create(zoo.resolve("timm:seresnet50")).eval()
    plain = zoo.create(zoo.resolve("timm:resnet50")).eval()
    surgery = sesurgery.apply(native, "strip-attention")
    assert len(surgery.plan.edits) == 16
    assert surgery.after.params - surgery.before.params == -2530992 == sum(edit.params for edit in surgery.plan.edits)
    keys = plain.state_dict().keys()
    plain.load_state_dict({key: value for key, value in native.state_dict().items() if key in keys})
    assert same_weights(surgery.model, plain)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(run(surgery.model, x), run(plain, x))
    assert same_weights(sesurgery.revert(surgery.model), native)


def test_a_gate_written_in_a_forward_leaves_it() -> None:
    net = Net(Gated(8), Gated(8))
    surgery = removed(net, "attention")
    assert [edit.route for edit in surgery.plan.edits] == ["source", "source"]
    assert not gates(surgery.model)
    plain = Net(Short(8), Short(8))
    assert list(surgery.model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(surgery.model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(run(surgery.model, x), run(plain, x))
    assert surgery.after.params - surgery.before.params == sum(edit.params for edit in surgery.plan.edits) == -2 * 76
    assert surgery.after.macs - surgery.before.macs == sum(edit.macs for edit in surgery.plan.edits) == -2 * 64
    assert surgery.new_parameters() == []
    block: Any = surgery.model.get_submodule("blocks.0")
    block.drop_rate = 1.0
    surgery.model.train()
    assert torch.equal(block(torch.ones(1, 8, 4, 4)), torch.ones(1, 8, 4, 4))
    block.drop_rate = 0.0
    check_operated(net, surgery.model, x)


def test_two_gates_in_one_forward_leave_together() -> None:
    net = Net(TwoGates(), TwoGates())
    surgery = removed(net, "attention")
    assert [edit.path.rpartition(".")[0] for edit in surgery.plan.edits] == ["blocks.0"] * 2 + ["blocks.1"] * 2
    assert not gates(surgery.model)
    assert surgery.after.macs - surgery.before.macs == sum(edit.macs for edit in surgery.plan.edits)
    plain = Net(Short(8), Short(8))
    plain.load_state_dict(surgery.model.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(run(surgery.model, x), run(plain, x))
    assert same_weights(sesurgery.revert(surgery.model), net)
    assert len(gates(surgery.model)) == 4


def test_written_gates_replay_and_go_stale() -> None:
    plan = Plan.from_json(removed(Net(Gated(8), Gated(8)), "attention").plan.to_json())
    other = Net(Gated(8), Gated(8))
    assert not gates(sesurgery.apply(other, plan, example_input=X).model)
    with pytest.raises(StalePlanError):
        sesurgery.apply(Net(Short(8), Short(8)), plan, example_input=X)


def test_what_was_inserted_can_be_stripped_and_inserted_again() -> None:
    net = Net(Block(8), Block(8))
    inserted = sesurgery.apply(net, "standard", example_input=X, reduction=2)
    stripped = sesurgery.apply(inserted.model, "strip-attention", example_input=X)
    assert list(stripped.model.state_dict()) == list(net.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(run(stripped.model, x), run(net, x))
    with pytest.raises(NothingMatchedError):
        sesurgery.apply(stripped.model, "strip-attention", example_input=X)
    again = sesurgery.apply(stripped.model, "standard", example_input=X, reduction=2)
    assert list(again.model.state_dict()) == list(inserted.model.state_dict())
    check_operated(net, again.model, torch.randn(2, 3, 32, 32))


def test_where_narrows_a_removal() -> None:
    plan = sesurgery.plan("timm:seresnet18", "strip-attention", stages="4")
    assert [edit.path for edit in plan.edits] == ["layer4.0.se", "layer4.1.se"]
    assert plan.skipped[0].reason == "in stage 1, not in 4"


def test_shared_attention_leaves_every_place() -> None:
    class Host(nn.Module):
        def __init__(self, se: nn.Module) -> None:
            super().__init__()
            self.conv, self.se = nn.Conv2d(8, 8, 3, padding=1), se

        def forward(self, x: Tensor) -> Tensor:
            return x + self.se(self.conv(x))

    se = SEModule(8)
    surgery = removed(Net(Host(se), Host(se)), "attention")
    assert [type(block.se) for block in surgery.model.blocks] == [nn.Identity] * 2  # type: ignore[union-attr]
    assert surgery.after.params - surgery.before.params == surgery.plan.edits[0].params


def test_liteconv_takes_the_last_pointwise_convolution_and_its_norm(shufflenet: nn.Module) -> None:
    surgery = sesurgery.apply(shufflenet, "shufflenet-liteconv")
    assert [edit.path for edit in surgery.plan.edits][:2] == ["stage2.0.branch2.5", "stage2.1.branch2.5"]
    assert len(surgery.plan.edits) == 16
    branch = surgery.model.get_submodule("stage2.0.branch2")
    assert [type(layer).__name__ for layer in branch.children()][5:] == ["Identity", "Identity", "ReLU"]
    assert type(surgery.model.get_submodule("stage2.0.branch1.2")) is nn.Conv2d
    check_operated(shufflenet, surgery.model, torch.randn(1, 3, 64, 64))
    with pytest.raises(NothingMatchedError, match="it was removed already"):
        sesurgery.apply(sesurgery.apply(shufflenet, "shufflenet-liteconv").model, "shufflenet-liteconv")
    diff = surgery.plan.diffs[0]
    assert diff.before.splitlines()[0].startswith("self[5] = Conv2d(58, 58")
    assert diff.after.splitlines() == ["self[5] = Identity()", "self[6] = Identity()"]


def test_a_removal_that_would_change_the_shape_is_refused() -> None:
    with pytest.raises(NothingMatchedError, match=r"removal would change channels [0-9]+ -> [0-9]+"):
        sesurgery.plan("torchvision:mobilenet_v2", rule(remove={}, at="last conv"))
    plan = sesurgery.plan("torchvision:mobilenet_v2", rule(remove={}, at="depthwise conv"))
    assert len(plan.edits) == 13
    assert [skip.reason.split("(")[0] for skip in plan.skipped] == ["removal would change the shape "] * 4


def test_a_block_with_too_few_convolutions_is_named() -> None:
    with pytest.raises(NothingMatchedError, match="it has 2 such convolutions, so none is number 3"):
        removed(Net(Block(8), Block(8)), "third conv")


def test_with_norm_needs_a_norm() -> None:
    with pytest.raises(NothingMatchedError, match="no norm of its own follows it"):
        removed(Net(Short(8), Short(8)), "conv", with_norm=True)


@pytest.mark.parametrize("at", ["activation", "norm"])
def test_activations_and_norms_leave(at: str) -> None:
    net = Net(Block(8), Block(8))
    surgery = removed(net, at)
    assert len(surgery.plan.edits) == (2 if at == "activation" else 4)
    assert all(type(surgery.model.get_submodule(edit.path)) is nn.Identity for edit in surgery.plan.edits)
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))


def test_a_norm_leaves_the_activation_that_it_holds() -> None:
    net = Net(WithNormAct(), WithNormAct())
    surgery = removed(net, "norm")
    assert type(surgery.model.get_submodule("blocks.0.bn")) is nn.SiLU
    check_operated(net, surgery.model, torch.randn(2, 3, 32, 32))


def test_nothing_changes_where_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from sesurgery.operating import perform as operate

    net = Net(Gated(8), Gated(8))
    kept = copy.deepcopy(net)

    def fail(*args: Any) -> None:
        raise RuntimeError("no")

    plan = removed(net, "attention").plan
    monkeypatch.setattr("sesurgery.planning.operation.perform", lambda model, actions: operate.perform(model, actions))
    monkeypatch.setattr(operate, "edited_class", fail)
    with pytest.raises(RuntimeError):
        sesurgery.apply(net, plan, inplace=True, example_input=X)
    assert same_weights(net, kept)
    assert [type(module) for module in net.modules()] == [type(module) for module in kept.modules()]


class Before(nn.Module):
    """What is removed made a value of its own, which the activation behind it may overwrite."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm or nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.act(self.norm(self.layer(x))))


class Added(nn.Module):
    """Its sum overwrites the last convolution's output, not that of the activation, which the backward pass wants."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), act or nn.ReLU(), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.conv1(x)))
        y += x
        return y


@pytest.mark.parametrize(
    ("net", "at", "options"),
    [
        (lambda: Before(SEModule(8)), "attention", {}),
        (Added, "last conv", {}),
        (lambda: Added(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())), "last conv", {}),
        (lambda: Before(nn.BatchNorm2d(8)), "norm", {}),
        (lambda: Before(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))), "second conv", {}),
        (lambda: Before(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), "first conv", {"with_norm": True}),
    ],
)
def test_nothing_is_removed_that_an_in_place_layer_relies_on(net: Any, at: str, options: dict[str, Any]) -> None:
    with pytest.raises(NothingMatchedError, match="what follows it works in place"):
        removed(Net(net(), net()), at, **options)
