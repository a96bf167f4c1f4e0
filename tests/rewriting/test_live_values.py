"""What a forward reads when it runs: modes, plain attributes, sizes, arguments that may be left out."""

from __future__ import annotations

import pytest
import torch
from networks import Residual, lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sesurgery
from sesurgery.errors import FrozenValueError, NothingMatchedError


class Moody(nn.Module):
    """Takes another way while training, and draws a dropout there."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop_rate = 0.3
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        if self.training:
            y = F.dropout(y, self.drop_rate)
            y = y + 0.01 * torch.rand_like(y)
        return x + self.scale * y


class MoodyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Moody(), Moody())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


def moody(init: str = "identity", name: str = "standard") -> tuple[nn.Module, nn.Module]:
    original = lively(MoodyNet())
    return original, sesurgery.apply(original, name, example_input=torch.randn(2, 3, 8, 8), init=init).model


@pytest.mark.parametrize("name", ["standard", "pre", "post", "identity"])
def test_both_ways_of_a_training_branch_are_kept(name: str) -> None:
    original, operated = moody(name=name)
    image = torch.randn(4, 3, 8, 8)
    for training in (True, False, True):
        outputs = []
        for model in (original, operated):
            torch.manual_seed(11)
            outputs.append(model.train(training)(image))
        assert torch.equal(*outputs)
    state = operated.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in original.state_dict().items())
    assert int(state["blocks.0.bn.num_batches_tracked"]) > 0


@pytest.mark.parametrize("training", [True, False])
def test_plain_attributes_stay_alive(training: bool) -> None:
    original, operated = moody()
    image = torch.randn(4, 3, 8, 8)
    torch.manual_seed(11)
    before = operated.train(training)(image)
    outputs = []
    for model in (original, operated):
        for block in model.blocks:
            block.drop_rate, block.scale = 0.7, 1.5
        torch.manual_seed(11)
        outputs.append(model.train(training)(image))
    assert torch.equal(*outputs)
    assert not torch.equal(before, outputs[1])


class Deep(nn.Module):
    """How often its convolution runs is a plain attribute: no generated code can follow a change of it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.repeats = 2

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(self.repeats):
            y = torch.relu(self.conv(y))
        return x + y


def test_frozen_attribute_says_so_when_it_changes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Deep(), Deep())
    sesurgery.apply(model, "standard", inplace=True, example_input=torch.randn(1, 3, 8, 8))
    model(torch.randn(1, 3, 8, 8))
    model[1].repeats = 3
    with pytest.raises(sesurgery.FrozenValueError, match=r"Deep\.repeats"):
        model(torch.randn(1, 3, 8, 8))
    sesurgery.revert(model)
    model(torch.randn(1, 3, 8, 8))


def test_a_word_that_a_forward_goes_by_is_watched() -> None:
    class Worded(Residual):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.mode = "plus"

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y + 1 if self.mode == "plus" else y - 1

    model = sesurgery.apply(lively(Worded(8)), "standard", example_input=torch.randn(1, 8, 8, 8)).model
    model(torch.randn(1, 8, 8, 8))
    model.mode = "minus"
    with pytest.raises(sesurgery.SurgeryError, match="'plus', and here it is 'minus'"):
        model(torch.randn(1, 8, 8, 8))


# Tensors that a forward makes from sizes: what it makes is of the size of the input it has now.
MADE = {
    "zeros(n, c, h, w)": lambda x, n, c, h, w: torch.zeros(n, c, h, w),
    "zeros((n, c, h, w))": lambda x, n, c, h, w: torch.zeros((n, c, h, w)),
    "zeros(size=)": lambda x, n, c, h, w: torch.zeros(size=(n, c, h, w)),
    "ones(n, 1, 1, 1)": lambda x, n, c, h, w: torch.ones(n, 1, 1, 1, dtype=x.dtype, device=x.device),
    "full((n, 1, h, w))": lambda x, n, c, h, w: torch.full((n, 1, h, w), 0.5),
    "eye(w)": lambda x, n, c, h, w: torch.eye(w)[:h],
    "arange(w)": lambda x, n, c, h, w: torch.arange(w, device=x.device).to(x.dtype),
    "linspace(w)": lambda x, n, c, h, w: torch.linspace(0, 1, w),
    "new_ones(n, c, h, w)": lambda x, n, c, h, w: x.new_ones(n, c, h, w),
    "meshgrid": lambda x, n, c, h, w: torch.meshgrid(torch.arange(h) * 1.0, torch.arange(w) * 1.0, indexing="ij")[0],
}


@pytest.mark.parametrize("made", MADE)
def test_what_is_made_from_sizes_follows_the_input(made: str) -> None:
    class Making(Residual):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return super().forward(x) + MADE[made](x, n, c, h, w)

    model = lively(Making(8)).eval()
    ours = sesurgery.apply(model, "standard", example_input=torch.randn(1, 8, 8, 8), init="identity").model
    x = torch.randn(3, 8, 10, 12)
    assert torch.equal(ours(x), model(x))
    assert not hasattr(torch.zeros, "__wrapped__")


class Masked(nn.Module):
    """Reads an attribute of an optional argument, but only on the way that is not taken (timm's fused attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = True
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        if not self.fused and mask is not None:
            y = y * mask.to(y.dtype) if mask.dtype == torch.bool else y + mask
        return x + y


def test_what_an_absent_argument_does_not_have_is_no_endless_search() -> None:
    surgery = sesurgery.apply(lively(Masked()), "standard", example_input=torch.randn(1, 8, 8, 8))
    assert [edit.path for edit in surgery.plan.edits] == ["se"]
    x = torch.randn(1, 8, 8, 8)
    taken = surgery.model(x)
    surgery.model.fused = False
    assert torch.equal(surgery.model(x), taken)
    with pytest.raises(sesurgery.SurgeryError):
        surgery.model(x, torch.ones(1))


class Checkpointing(nn.Module):
    """As torchvision's DenseNet does, and many a block of mmcv and of people's own."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.conv, self.always = nn.Conv2d(8, 8, 3, padding=1), always

    def forward(self, x: Tensor) -> Tensor:
        if self.always and self.training:
            return x + checkpoint(self.conv, x, use_reentrant=False)
        return x + self.conv(x)


class AskingForGradients(Checkpointing):
    def forward(self, x: Tensor) -> Tensor:
        if self.always and x.requires_grad:
            return x + checkpoint(self.conv, x, use_reentrant=False)
        return x + self.conv(x)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Checkpointing, "it calls torch.utils.checkpoint"), (AskingForGradients, "requires_grad")]
)
def test_a_host_that_trains_otherwise_than_it_can_be_traced_is_refused(kind: type[Checkpointing], reason: str) -> None:
    image = torch.randn(1, 8, 4, 4)
    with pytest.raises(NothingMatchedError, match=reason):
        sesurgery.apply(kind(True), "standard", example_input=(image,))
    model = kind(False)
    surgery = sesurgery.apply(model, "standard", example_input=(image,), init="identity")
    assert torch.equal(surgery.model(image), model(image))
    surgery.model.always = True  # type: ignore[assignment]
    with pytest.raises(FrozenValueError, match="always"):
        surgery.model(image)


class Noisy(nn.Module):
    """Asks for ``training`` only where the noise is on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.noise = nn.Conv2d(8, 8, 3, padding=1), 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.noise > 0 and self.training:
            y = y + self.noise * torch.ones_like(y)
        return x + y


def test_a_flag_that_matters_in_training_only_is_watched() -> None:
    image = torch.randn(1, 8, 4, 4)
    model = Noisy().train()
    ours = sesurgery.apply(model, "standard", example_input=(image,), init="identity").model
    assert torch.equal(ours(image), model(image))
    ours.noise = 0.5  # type: ignore[assignment]
    with pytest.raises(FrozenValueError, match="noise"):
        ours(image)
