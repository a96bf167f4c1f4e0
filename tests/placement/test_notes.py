"""What a plan says beforehand about a layer: that it gets no gradient, or that it goes with what it is put into."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from networks import Short, conv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sesurgery

IMAGE = torch.randn(2, 8, 8, 8)
NO_GRADIENT = "gets no gradient"


class Frozen(Short):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.conv(x)
        return x + y


class Decorated(Short):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Inference(Short):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Short()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.block(x)


class Sequence(nn.Module):
    """Its layers lie in a Sequential, where nothing can be put but behind one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.layers(x)
        return x.relu()


class Checkpointed(Short):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=True)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("build", "recipe", "noted"),
    [
        (Frozen, "standard", True),
        (Frozen, "post", False),
        (Decorated, "standard", True),
        (Decorated, "post", True),
        (Inference, "standard", True),
        (Around, "standard", True),
        (Around, "post", True),
        (Sequence, "se-3x3", True),
        (Checkpointed, "standard", False),
        (Short, "standard", False),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_layer_without_gradients_is_noted(build: Callable[[], nn.Module], recipe: str, noted: bool) -> None:
    model = nn.Sequential(conv(kernel=1), build())
    surgery = sesurgery.apply(model, recipe, example_input=IMAGE)
    assert [NO_GRADIENT in " ".join(edit.notes) for edit in surgery.plan.edits] == [noted]
    output = surgery.model(IMAGE.clone().requires_grad_())
    if output.requires_grad:
        output.square().sum().backward()
    assert all((parameter.grad is None) == noted for parameter in surgery.new_parameters())


def conv_norm() -> nn.Sequential:
    return nn.Sequential(conv(), nn.BatchNorm2d(8))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm(), conv_norm()])

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


class Branch(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize("branch", [conv_norm, lambda: nn.Sequential(nn.Sequential(conv(), nn.ReLU()), conv_norm())])
def test_a_layer_behind_the_last_norm_of_a_branch_is_in_the_code_that_calls_the_branch(
    branch: Callable[[], nn.Module],
) -> None:
    """Fusion, ``convert_sync_batchnorm`` and the like replace the norm, and the layer stays."""
    model = nn.Sequential(conv(), Branch(branch()))
    surgery = sesurgery.apply(model, "se-3x3", example_input=IMAGE)
    assert surgery.plan.edits[-1].path == "1.se"
    after = nn.SyncBatchNorm.convert_sync_batchnorm(surgery.model).eval()
    calls: list[nn.Module] = []
    after[1].se.register_forward_hook(lambda *_: calls.append(after[1].se))
    after(IMAGE)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("build", "recipe", "said"),
    [
        (Loop, "standard", r"lives in the BatchNorm2d: .*convert_sync_batchnorm"),
        (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv()), "se-3x3", r"lives in the ReLU: .*swap"),
        (lambda: nn.Sequential(conv(), conv()), "se-3x3", r"lives in the Conv2d: .*LoRA"),
    ],
)
def test_a_layer_that_lives_in_what_tools_replace_is_noted(
    build: Callable[[], nn.Module], recipe: str, said: str
) -> None:
    plan = sesurgery.plan(nn.Sequential(conv(), build()), recipe, example_input=IMAGE)
    assert any(re.search(said, note) for edit in plan.edits for note in edit.notes)
