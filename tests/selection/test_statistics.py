"""Norms that are judged with some layers off have statistics of what runs then."""

from __future__ import annotations

import torch
from torch import nn

from sesurgery.selection.ranking import Judge, ranked
from sesurgery.selection.statistics import batch_norms, renewed


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * x + 100


class Net(nn.Module):
    """What ``layer`` does, ``norm`` undoes, if it has the statistics of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = Scaled(), nn.BatchNorm2d(4, momentum=0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))


X = torch.randn(8, 4, 5, 5)


def test_they_are_the_mean_over_the_batches() -> None:
    model = Net().eval()
    with renewed(batch_norms(model)):
        for batch in X.split(2):
            model.eval()(batch)  # as validations do
    means = torch.stack([(100 * batch + 100).mean((0, 2, 3)) for batch in X.split(2)])
    torch.testing.assert_close(model.norm.running_mean, means.mean(0))
    assert (model.norm.momentum, model.norm.training, len(model.norm._forward_pre_hooks)) == (0.3, False, 0)


def test_one_value_a_channel_tells_nothing() -> None:
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.fill_(7.0)
    with renewed([norm]):
        norm(torch.randn(1, 4, 1, 1))
    assert torch.equal(norm.running_mean, torch.full((4,), 7.0))


def test_a_layer_that_a_norm_undoes_is_worth_nothing() -> None:
    def train(model: nn.Module, trial: object) -> float:
        for _ in range(20):
            model(X)
        return 0.0

    def validate(model: nn.Module, trial: object) -> float:
        with torch.no_grad():
            return -float(model.eval()(X).square().mean())

    value = ranked(Net(), ["layer"], Judge(train, validate, "value", False, None, 2), 0)["layer"]
    assert abs(value.without) < 1e-3
    assert abs(value.alone) < 1e-3


def test_a_validation_may_train_for_a_step() -> None:
    """Each validation finds the layers on that it is to judge, whatever the steps of one before drew."""
    seen: list[bool] = []

    def validate(model: nn.Module, trial: object) -> float:
        model.eval()
        seen.append(not torch.equal(model.layer(X), X))
        for _ in range(8):
            model.train()(X)
        model.eval()
        return 0.0

    ranked(Net(), ["layer"], Judge(lambda model, trial: 0.0, validate, "value", False, None, 2), 0)
    on, off = [True] * 3, [False] * 3  # one renews the statistics, two judge
    assert seen == [*on, *off, *off, *on]
