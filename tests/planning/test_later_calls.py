"""Fusion and re-parametrisation after an operation: an edit says beforehand after which call its layer is skipped."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from networks import conv
from timm.utils import reparameterize_model
from torch import Tensor, nn

import sesurgery

IMAGE = torch.randn(2, 8, 8, 8)


class Switching(nn.Module):
    """Two convolutions that become one: the sum goes, and so does what was put behind one of its sides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = conv(), conv(kernel=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "one"):
            return self.act(self.one(x))
        return self.act(self.a(x) + self.b(x))

    def switch_to_deploy(self) -> None:
        print("switching")
        logging.getLogger("switching").warning("switching")
        self.one = copy.deepcopy(self.a)
        del self.a, self.b


class Giving(nn.Module):
    """Gives another module in its place, as ConvNorm.fuse does."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.n = conv(), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.n(self.c(x))

    def fuse(self) -> nn.Module:
        return copy.deepcopy(self.c)


class Fusing(nn.Module):
    """Exchanges its forward, which every edit reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.n = conv(), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.n(self.c(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return x + self.c(x)

    def fuse(self) -> None:
        self.forward = self.forward_fuse
        del self.n


class Failing(Giving):
    def fuse(self) -> nn.Module:
        raise RuntimeError("not today")


def net(block: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv(), block(), block())


def call_all(model: nn.Module, name: str) -> None:
    for module in list(model.modules()):
        if name in dir(type(module)):
            result = getattr(module, name)()
            for parent in list(model.modules()):
                for key, child in parent.named_children():
                    if child is module and isinstance(result, nn.Module):
                        setattr(parent, key, result)


def uncalled(model: nn.Module, layers: dict[str, nn.Module], *args: Any) -> set[str]:
    called: set[str] = set()
    for path, layer in layers.items():
        layer.register_forward_hook(lambda *_, path=path: called.add(path))
    with torch.no_grad():
        model.eval()(*args)
    return set(layers) - called


AFTER_CONV = {"rules": [{"insert": {"module": "se"}, "at": "after conv"}]}
END = {"rules": [{"insert": {"module": "se"}, "at": "end of block"}]}


@pytest.mark.parametrize(
    ("block", "recipe", "method", "lost"),
    [
        (Switching, AFTER_CONV, "switch_to_deploy", True),
        (Switching, END, "switch_to_deploy", False),
        (Giving, AFTER_CONV, "fuse", True),
        (Fusing, "standard", "fuse", False),
        (Fusing, "post", "fuse", False),
    ],
)
def test_a_layer_that_a_later_call_takes_away_is_noted_with_the_call(
    block: type[nn.Module], recipe: Any, method: str, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    surgery = sesurgery.apply(net(block), recipe, example_input=IMAGE)
    edits = [edit for edit in surgery.plan.edits if edit.path.startswith(("1.", "2."))]
    assert edits
    assert capsys.readouterr().out == ""
    said = f"after {block.__name__}.{method}() this layer is skipped"
    layers = {edit.path: surgery.model.get_submodule(edit.path) for edit in edits}
    call_all(surgery.model, method)
    skipped = uncalled(surgery.model, layers, IMAGE)
    assert {edit.path for edit in edits if said in edit.notes} == skipped
    assert bool(skipped) == lost


def test_a_call_that_fails_is_not_held_against_the_layer() -> None:
    plan = sesurgery.plan(net(Failing), AFTER_CONV, example_input=IMAGE)
    assert plan.edits
    assert not any("skipped" in note for edit in plan.edits for note in edit.notes)


@pytest.mark.parametrize("name", ["repvgg_a0", "levit_128s"])
def test_what_timm_s_own_tool_takes_away_is_what_was_noted(name: str) -> None:
    model = timm.create_model(name)
    surgery = sesurgery.apply(model, "se-3x3" if name == "repvgg_a0" else "standard", inplace=True)
    layers = {edit.path: surgery.model.get_submodule(edit.path) for edit in surgery.plan.edits}
    noted = {edit.path for edit in surgery.plan.edits if any("skipped" in note for note in edit.notes)}
    fused = reparameterize_model(surgery.model, inplace=True)
    assert uncalled(fused, layers, torch.randn(1, 3, 224, 224)) == noted


def test_what_is_tried_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(Switching(), Switching())
    sesurgery.plan(model, {"rules": [{"insert": {"module": "se"}, "at": "after conv 1"}]}, example_input=IMAGE)
    assert (caplog.records, capsys.readouterr()) == ([], ("", ""))
    Switching().switch_to_deploy()
    assert len(caplog.records) == 1
