"""Help for training: groups are complete, phases move what they say, norms stay, the teacher is the original."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from networks import Residual
from places import ROOT
from torch import nn

import sesurgery
from sesurgery.training import (
    Distillation,
    Phases,
    freeze_norms,
    new_parameters,
    param_groups,
    print_trainable_parameters,
    thaw_norms,
)

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = Residual(8), Residual(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))

    def no_weight_decay(self) -> set[str]:
        return {"head.weight"}


@pytest.fixture
def surgery() -> sesurgery.Surgery[Net]:
    return sesurgery.apply(Net(), "standard", example_input=X)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def test_groups_hold_every_parameter_once(surgery: sesurgery.Surgery[Net]) -> None:
    surgery.model.one.conv1.weight.requires_grad_(False)
    groups = param_groups(surgery.model, lr=0.1, new_lr=0.2, weight_decay=0.3)
    held_by = [parameter for group in groups for parameter in group["params"]]
    assert len(held_by) == len(set(held_by))
    assert set(held_by) == set(surgery.model.parameters())
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {"new": (0.2, 0.3), "new, no decay": (0.2, 0), "old": (0.1, 0.3), "old, no decay": (0.1, 0)}
    by_name = {group["name"]: set(group["params"]) for group in groups}
    assert by_name["new"] | by_name["new, no decay"] == set(surgery.new_parameters())
    assert surgery.model.head.weight in by_name["old, no decay"]
    assert surgery.model.one.bn1.weight in by_name["old, no decay"]
    assert surgery.model.one.conv1.weight in by_name["old"]


def test_new_is_what_came_in_behind_wrappers_and_over_operations(surgery: sesurgery.Surgery[Net]) -> None:
    twice = sesurgery.apply(surgery.model, "identity", module="eca", example_input=X)
    names = {parameter: name for name, parameter in twice.model.named_parameters()}
    old = {name for name, _ in Net().named_parameters()}
    assert {names[parameter] for parameter in new_parameters(twice.model)} == set(names.values()) - old
    assert len(new_parameters(nn.Sequential(twice.model))) == len(names) - len(old)
    assert new_parameters(Net()) == []
    assert [group["name"] for group in param_groups(Net(), lr=1.0)] == ["old", "old, no decay"]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_the_old_stand_still_while_they_are_frozen(surgery: sesurgery.Surgery[Net], kind: type) -> None:
    model = surgery.model
    optimizer = kind(param_groups(model, lr=0.01, weight_decay=0.1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Phases(frozen=2, thaw=1).lambdas(optimizer))
    fresh = set(surgery.new_parameters())
    for epoch in range(3):
        before = copy.deepcopy(list(model.parameters()))
        train(model, optimizer)
        scheduler.step()
        for old, parameter in zip(before, model.parameters(), strict=True):
            still = parameter not in fresh and epoch < 2
            assert torch.equal(old, parameter) is still or (not still and parameter.grad.abs().sum() == 0)


def test_phases_are_a_function_of_the_epoch_alone(surgery: sesurgery.Surgery[Net]) -> None:
    phases = Phases(frozen=2, warm=1, thaw=3)
    assert [phases.factor(epoch, new=True) for epoch in range(3)] == [0.5, 1, 1]
    assert [phases.factor(epoch, new=False) for epoch in range(7)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]

    def rates(resumed_at: int | None) -> list[list[float]]:
        optimizer = torch.optim.SGD(param_groups(surgery.model, lr=0.1, new_lr=1.0))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, phases.lambdas(optimizer, lambda epoch: 0.9**epoch))
        seen = []
        for epoch in range(6):
            if epoch == resumed_at:
                state = pickle.loads(pickle.dumps((optimizer.state_dict(), scheduler.state_dict())))
                optimizer = torch.optim.SGD(param_groups(surgery.model, lr=0.1, new_lr=1.0))
                scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, phases.lambdas(optimizer, lambda e: 0.9**e))
                optimizer.load_state_dict(state[0])
                scheduler.load_state_dict(state[1])
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return seen

    assert rates(3) == rates(None)
    optimizer = torch.optim.SGD(param_groups(surgery.model, lr=0.1, new_lr=1.0))
    for epoch in (4, 0, 4, 2):
        phases.set(optimizer, epoch)
        for group in optimizer.param_groups:
            assert group["lr"] == (1.0 if group["new"] else 0.1) * phases.factor(epoch, new=group["new"])


def test_frozen_norms_stay_frozen_and_come_back(surgery: sesurgery.Surgery[Net]) -> None:
    model = surgery.model
    before = copy.deepcopy(model.state_dict())
    assert freeze_norms(model) == 4
    for body in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        body.train()(X)
        assert body.training
        assert body.one.se.training
        for name, value in body.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert thaw_norms(model) == 4
    assert model.one.bn1.training
    model(X)
    assert not torch.equal(model.one.bn1.running_mean, before["one.bn1.running_mean"])
    assert model.eval().one.bn1.training is False


def test_norms_of_new_layers_are_left_alone() -> None:
    model = sesurgery.apply(Net(), "standard", module="coord", example_input=X).model
    ours = sum(1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
    assert ours > 4
    assert freeze_norms(model) == 4
    assert thaw_norms(model) == 4
    assert freeze_norms(model, new=True) == ours


def test_the_teacher_is_the_unmodified_model(surgery: sesurgery.Surgery[Net]) -> None:
    original = sesurgery.revert(copy.deepcopy(surgery.model)).eval()
    distillation = Distillation(surgery.model, temperature=2.0)
    keys = list(surgery.model.state_dict())
    near = Distillation(surgery.model, loss=nn.functional.mse_loss)(original(X), X)
    assert float(near.detach()) == 0
    assert float(distillation(original(X), X).detach()) == pytest.approx(0, abs=1e-6)
    output = surgery.model.train()(X)
    loss = distillation(output, X)
    with torch.no_grad():
        soft, wanted = (torch.log_softmax(scores / 2, 1) for scores in (output, original(X)))
        expected = 4 * (wanted.exp() * (wanted - soft)).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())
    assert list(surgery.model.state_dict()) == keys


def test_what_apply_returned_is_taken_as_its_model(surgery: sesurgery.Surgery[Net]) -> None:
    assert [len(each["params"]) for each in param_groups(surgery, lr=1)] == [
        len(each["params"]) for each in param_groups(surgery.model, lr=1)
    ]
    assert new_parameters(surgery) == new_parameters(surgery.model)
    assert freeze_norms(surgery) == thaw_norms(surgery) > 0
    assert not sesurgery.plans_of(Distillation(surgery).teacher)


def test_bad_input_is_one_message(surgery: sesurgery.Surgery[Net]) -> None:
    with pytest.raises(sesurgery.InputError, match="no operation"):
        Distillation(Net())
    with pytest.raises(sesurgery.InputError, match="below 0"):
        Phases(frozen=-1)
    with pytest.raises(sesurgery.InputError, match="below 0"):
        param_groups(surgery.model, lr=-1)
    with pytest.raises(sesurgery.InputError, match="no parameter"):
        param_groups(nn.ReLU(), lr=1)
    for call in (new_parameters, freeze_norms, thaw_norms, print_trainable_parameters, Distillation):
        with pytest.raises(sesurgery.InputError, match=f"{call.__name__}: a str is no model"):
            call("resnet18")  # type: ignore[arg-type]
    for wrong in ("1e-3", float("nan")):
        with pytest.raises(sesurgery.InputError, match=f"lr: {wrong} is below 0 or no number"):
            param_groups(surgery, lr=wrong)  # type: ignore[arg-type]
        with pytest.raises(sesurgery.InputError, match=f"warm: {wrong} epochs is below 0 or no number"):
            Phases(warm=wrong)  # type: ignore[arg-type]
    with pytest.raises(sesurgery.InputError, match="temperature: 0 is not above 0"):
        Distillation(surgery, temperature=0)
    with pytest.raises(sesurgery.InputError, match=r"gives a dict, which is no scores; say how far two are: loss="):
        Distillation(surgery)._divergence({}, {})
    with pytest.raises(sesurgery.InputError, match="param_groups"):
        Phases().lambdas(torch.optim.SGD(surgery.model.parameters()))


def test_what_is_trained_is_printed(surgery: sesurgery.Surgery[Net], capsys: pytest.CaptureFixture[str]) -> None:
    surgery.model.stem.requires_grad_(False)
    print_trainable_parameters(surgery.model)
    new = sum(parameter.numel() for parameter in surgery.new_parameters())
    old = sum(parameter.numel() for parameter in Net().parameters())
    words = f"new: {new} of {new} parameters are trained\nold: {old - 224:,} of {old:,} parameters are trained\n"
    assert capsys.readouterr().out == words


def test_the_page_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/training.md", "exec"), names)
    assert "('new', 0.01, 0.05)" in capsys.readouterr().out
    assert names["optimizer"].param_groups[-1]["lr"] > 0
