"""``verify`` on models that are wrong in one way each, planted by hand; each is reported, and right ones pass."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from networks import SIZE, TINY, TOYS, Residual, lively, small_resnet
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import sesurgery
from sesurgery.cli.app import app
from sesurgery.errors import InputError, ModelError
from sesurgery.verification.result import Difference, Verification


class Answer(NamedTuple):
    logits: Tensor
    level: Tensor
    more: dict[str, Any]


class Right(nn.Module):
    """A network whose steps are methods, for wrong ones to be wrong in one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.count()
        x = self.image(x)
        features = self.blocks(self.stem(x))
        return self.answer(self.pooled(features), features)

    def count(self) -> None:
        self.seen += 1
        self.calls += 1

    def image(self, x: Tensor) -> Tensor:
        return x

    def level(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return features.mean() * self.scale

    def pooled(self, features: Tensor) -> Tensor:
        return self.drop(features.mean((2, 3)))

    def answer(self, pooled: Tensor, features: Tensor) -> Any:
        more = {"features": [features], "size": features.shape[-1], "nothing": features.new_tensor(float("nan"))}
        return Answer(self.head(pooled), self.level(features), more)


def grows(model: Any, name: str, change: Callable[..., Any]) -> None:
    """Give ``model`` another step: ``change`` is called with what the right one gives, then its arguments."""
    right = getattr(type(model), name)

    class Wrong(type(model)):
        pass

    setattr(Wrong, name, lambda self, *args: change(self, right(self, *args), *args))
    model.__class__ = Wrong


def halved(y: Tensor) -> Tensor:
    """The same numbers, half the gradient."""
    return y.detach() + (y - y.detach()) * 0.5


def drawn(draw: Callable[[], object]) -> Callable[..., Any]:
    return lambda self, y, *_: (draw(), y)[1]


def failing(self: nn.Module, y: Tensor, *_: Any) -> Tensor:
    if self.training:
        raise ValueError("not in\ntrain mode")
    return y


def marked(self: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    copied = y.clone()
    x[0, 0, 0, 0] += 1
    return copied


def with_more(**changes: Any) -> Callable[..., Answer]:
    return lambda self, answer, *_: answer._replace(more={**answer.more, **changes})


# What is wrong: the step, how, then the place, the path and the kind that must be reported, and in which cases alone.
WRONG: dict[str, tuple[str, Any, str, str, str, str]] = {
    "grad mode": ("level", lambda s, y, f: f.mean() * s.scale, "output", ".level", "requires_grad", ""),
    "new gradient": ("level", lambda s, y, f: f.mean() * s.scale, "gradient", "scale", "new", ""),
    "dtype": ("answer", lambda s, a, *_: a._replace(logits=a.logits.double()), "output", ".logits", "dtype", ""),
    "shape": ("answer", lambda s, a, *_: a._replace(logits=a.logits[None]), "output", ".logits", "shape", ""),
    "buffer": ("count", lambda s, _: s.seen.add_(1), "buffer", "seen", "values", ""),
    "attribute": ("count", lambda s, _: setattr(s, "calls", s.calls + 1), "attribute", "calls", "values", ""),
    "torch draw": ("pooled", drawn(lambda: torch.rand(1)), "random numbers", "torch", "values", ""),
    "Python draw": ("pooled", drawn(random.random), "random numbers", "Python", "values", ""),
    "NumPy draw": ("pooled", drawn(lambda: np.random.rand()), "random numbers", "NumPy", "values", ""),
    "type": ("answer", lambda s, a, *_: tuple(a), "output", "", "type", ""),
    "inner type": ("answer", with_more(features=()), "output", ".more['features']", "type", ""),
    "keys": ("answer", with_more(other=1), "output", ".more", "keys", ""),
    "length": ("answer", with_more(features=[]), "output", ".more['features']", "length", ""),
    "number": ("answer", with_more(size=3), "output", ".more['size']", "values", ""),
    "no number": ("answer", with_more(nothing=torch.ones(())), "output", ".more['nothing']", "values", ""),
    "gradient": ("pooled", lambda s, y, f: halved(y), "gradient", "stem.weight", "values", ""),
    "no gradient": ("pooled", lambda s, y, f: y.detach(), "gradient", "stem.weight", "values", ""),
    "input": ("image", marked, "input", "[0]", "values", ""),
    "one batch": ("pooled", lambda s, y, f: y + (len(y) == 2) * 1e-6, "output", ".logits", "values", "batch 2"),
    "one size": ("pooled", lambda s, y, f: y * (1 + (f.shape[-1] != 16)), "output", ".logits", "values", "19 x 21"),
    "eval": ("pooled", lambda s, y, f: y if s.training else y + 1e-6, "output", ".logits", "values", "eval"),
    "train": ("pooled", lambda s, y, f: y * 1.01 if s.training else y, "output", ".logits", "values", "train"),
    "dropout": ("pooled", lambda s, y, f: F.dropout(y, 0.2), "output", ".logits", "values", ""),
    "autocast": (
        "pooled",
        lambda s, y, f: y * 2 if torch.is_autocast_enabled("cpu") else y,
        "output",
        ".logits",
        "values",
        "autocast",
    ),
    "error": ("pooled", failing, "call", "", "error", "train"),
}


@pytest.fixture(scope="module")
def right() -> Any:
    torch.manual_seed(0)
    return lively(Right())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def operated(right: nn.Module, image: Tensor, **options: Any) -> Any:
    return sesurgery.apply(right, "standard", example_input=image, **options).model


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_fault_is_reported(right: nn.Module, image: Tensor, name: str) -> None:
    step, change, place, path, kind, case = WRONG[name]
    wrong = operated(right, image)
    grows(wrong, step, change)
    result = sesurgery.verify(right, wrong, image)
    assert not result
    hits = [one for one in result.differences if (one.place, one.path, one.kind) == (place, path, kind)]
    assert hits, result
    assert all(case in one.case for one in hits), result
    if case:
        assert all(case in one.case for one in result.differences if one.place == "output"), result
    assert kind in str(result)


def test_a_size_is_the_largest_difference(right: nn.Module, image: Tensor) -> None:
    wrong = copy.deepcopy(right)
    grows(wrong, "answer", lambda _, answer, *__: answer._replace(level=answer.level + 3))
    difference = next(one for one in sesurgery.verify(right, wrong, image).differences if one.path == ".level")
    assert difference.size == pytest.approx(3)


def test_identity_gates_stay_and_others_are_exchanged(right: nn.Module, image: Tensor) -> None:
    kept = sesurgery.verify(right, operated(right, image, init="identity"), image)
    assert kept
    assert kept.identical
    assert [case.name for case in kept.cases] == [
        "eval, batch 1",
        "eval, batch 2",
        "eval, 19 x 21",
        "eval, autocast",
        "train, batch 2",
    ]
    exchanged = sesurgery.verify(right, operated(right, image), image)
    assert exchanged
    assert not exchanged.identical
    assert [use.identity for use in exchanged.layers] == [False, False]
    assert "where inserted layers change something as they are" in str(exchanged)


def test_a_layer_that_changes_the_dtype_is_reported(right: nn.Module, image: Tensor) -> None:
    wrong = operated(right, image)
    wrong.blocks[1].se.register_forward_hook(lambda layer, args, output: output.double())
    differences = sesurgery.verify(right, wrong, image).differences
    assert ("layer", "blocks.1.se", "dtype") in {(one.place, one.path, one.kind) for one in differences}


def test_a_layer_that_fails_is_an_error_though_the_identity_in_its_place_would_not(right: Any, image: Tensor) -> None:
    wrong = operated(right, image)
    wrong.blocks[0].se.double()
    result = sesurgery.verify(right, wrong, image)
    assert {one.kind for one in result.differences if one.case == "eval, batch 1"} == {"error"}


@pytest.mark.parametrize("change", ["value", "missing", "tie"])
def test_old_weights_are_compared(image: Tensor, change: str) -> None:
    original = lively(Right())
    original.blocks[1].conv1.weight = original.blocks[0].conv1.weight
    wrong = copy.deepcopy(original)
    if change == "value":
        wrong.head.bias.data[0] += 1
    elif change == "missing":
        wrong.head.bias = None
    else:
        wrong.blocks[1].conv1.weight = nn.Parameter(wrong.blocks[0].conv1.weight.detach().clone())
    kinds = {one.kind for one in sesurgery.verify(original, wrong, image).differences if one.case == "weights"}
    assert kinds == {"values" if change == "value" else change}


# originals that are no help


def test_what_the_original_does_otherwise_each_time_is_told_apart(image: Tensor) -> None:
    original = lively(Right())

    def unsteady(self: nn.Module, level: Tensor, *_: Any) -> Tensor:
        return level + int.from_bytes(os.urandom(4))

    grows(original, "level", unsteady)
    result = sesurgery.verify(original, copy.deepcopy(original), image)
    assert result
    assert {case.outcome for case in result.cases} == {"nondeterministic"}
    assert {(one.place, one.path) for one in result.unstable} == {("output", ".level")}
    wrong = copy.deepcopy(original)
    grows(wrong, "pooled", lambda self, y, *_: y + 1)
    assert ".logits" in {one.path for one in sesurgery.verify(original, wrong, image).differences}


def test_where_the_original_fails_nothing_is_compared(image: Tensor) -> None:
    original = lively(Right())
    grows(original, "pooled", failing)
    result = sesurgery.verify(original, copy.deepcopy(original), image)
    assert result
    assert result.cases[-1].outcome == "not compared"
    assert result.cases[-1].reason.endswith("ValueError: not in")


def test_an_original_that_runs_on_nothing_is_an_error(right: nn.Module) -> None:
    with pytest.raises(ModelError, match="runs on none"):
        sesurgery.verify(right, right, torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("model", [3, nn.Linear(2, 2, device="meta")])
def test_what_cannot_run_is_refused(model: Any) -> None:
    with pytest.raises(InputError):
        sesurgery.verify(model)


# nothing is changed


def test_neither_model_nor_any_random_state_is_changed(image: Tensor) -> None:
    original = lively(Right())
    model = operated(original, image)
    model.blocks[0].train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in (original, model)]
    attributes = [[dict(module.__dict__) for module in each.modules()] for each in (original, model)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    wanted = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with torch.no_grad():
        assert sesurgery.verify(original, model, image)
        assert not torch.is_grad_enabled()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted
    for each, tensors, fields in zip((original, model), before, attributes, strict=True):
        state = each.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
        assert [module.__dict__ for module in each.modules()] == fields
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(parameter.grad is None for parameter in original.parameters())
    assert torch.equal(image, torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


# structural edits


def test_of_another_function_only_forms_are_compared(image: Tensor) -> None:
    original = lively(Right())
    rule = {"rules": [{"replace": {"kernel": 5}, "at": "spatial conv"}]}
    model = sesurgery.apply(original, rule, example_input=image).model
    result = sesurgery.verify(original, model, image)
    assert result
    assert "the model is meant to compute something else" in str(result)
    grows(model, "answer", lambda self, answer, *_: answer._replace(logits=answer.logits[None]))
    assert {one.kind for one in sesurgery.verify(original, model, image).differences} == {"shape"}


# one model alone


def test_the_audit_counts_calls_and_gradients(right: nn.Module, image: Tensor) -> None:
    model = operated(right, image)
    result = sesurgery.verify(model)
    assert result
    assert [(use.path, use.calls, use.train_calls, use.gradients) for use in result.layers] == [
        ("blocks.0.se", 1, 1, True),
        ("blocks.1.se", 1, 1, True),
    ]
    assert "every inserted layer is called" in str(result)
    model.blocks[0].register_forward_hook(lambda block, args, output: output.detach())
    result = sesurgery.verify(model)
    assert [use.gradients for use in result.layers] == [False, True]
    assert "no gradient reaches blocks.0.se in train mode" in str(result)


@pytest.mark.parametrize("alone", [True, False])
def test_layers_that_nobody_calls_are_named(right: nn.Module, image: Tensor, alone: bool) -> None:
    """As after ``fuse()``: one host runs another forward, one is a new module, and one lost its layer."""
    original = copy.deepcopy(right)
    original.blocks.append(Residual(8).eval())
    model = operated(original, image)
    model.blocks[0].forward = Residual.forward.__get__(model.blocks[0])
    model.blocks[1] = copy.deepcopy(original.blocks[1])
    model.blocks[2].se = nn.Identity()
    del model.blocks[2]._modules["se"]
    model.blocks[2].forward = Residual.forward.__get__(model.blocks[2])
    result = sesurgery.verify(model, None, image) if alone else sesurgery.verify(original, model, image)
    assert not result
    assert {one.path: one.kind for one in result.differences} == {
        "blocks.0.se": "not called",
        "blocks.1.se": "missing",
        "blocks.2.se": "missing",
    }


@pytest.mark.parametrize("alone", [True, False])
def test_a_layer_that_its_host_calls_twice_is_named(right: nn.Module, image: Tensor, alone: bool) -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        return type(self).forward(self, self.se(x))  # a gate at identity changes no bit

    model = operated(right, image)
    model.blocks[0].forward = twice.__get__(model.blocks[0])
    result = sesurgery.verify(model, None, image) if alone else sesurgery.verify(right, model, image)
    assert {one.path: one.text for one in result.differences} == {"blocks.0.se": "2 times in 1 calls of its host"}


def test_an_operated_part_of_a_model_is_audited_too(right: nn.Module, image: Tensor) -> None:
    whole = nn.Sequential(operated(right, image))
    assert [use.path for use in sesurgery.verify(whole, None, image).layers] == ["0.blocks.0.se", "0.blocks.1.se"]
    whole[0].blocks[0] = copy.deepcopy(right.blocks[0])
    assert [one.path for one in sesurgery.verify(whole, None, image).differences] == ["0.blocks.0.se"]


def test_a_model_that_nobody_operated_has_nothing_to_audit(right: nn.Module, image: Tensor) -> None:
    result = sesurgery.verify(right, None, image)
    assert result
    assert result.layers == ()


def test_a_reverted_model_is_the_original(right: nn.Module, image: Tensor) -> None:
    assert sesurgery.verify(right, sesurgery.revert(operated(right, image)), image).identical


# families

RECIPES = {"densenet": {"rules": [{"insert": {"module": "se"}, "at": "after concat"}]}, "shufflenet": "shufflenet-se"}


@pytest.mark.parametrize("family", TOYS)
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_right_ones_pass(family: str, init: str) -> None:
    toy = TOYS[family]
    original, recipe = toy.model(), RECIPES.get(family, "standard")
    surgery = sesurgery.apply(original, recipe, example_input=toy.image(), init=init)
    result = sesurgery.verify(original, surgery.model, toy.image())
    assert result, result
    assert result.identical is (init == "identity")
    assert len(result.layers) == len(surgery.plan.edits)
    assert sum(case.outcome == "equal" for case in result.cases) >= 4, result


class Doubling(nn.Module):
    """As in NFNets: what fills the place is doubled, since a gate starts at one half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.attn = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x).relu())
        if self.attn is not None:
            y = 2.0 * self.attn(y)
        return x + y


def test_a_place_that_its_author_doubles_is_told(image: Tensor) -> None:
    original = nn.Sequential(Doubling(), Doubling())
    surgery = sesurgery.apply(original, "standard", example_input=image)
    assert {edit.route for edit in surgery.plan.edits} == {"socket"}
    result = sesurgery.verify(original, surgery.model, image)
    assert result, result
    assert "the author's code doubles what 0.attn, 1.attn give" in str(result)


class Detector(nn.Module):
    """A list of images of any size in, a list of dicts out; with targets only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Right()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        if self.training:
            raise ValueError("targets should not be none when in training mode")
        return [{"scores": self.net(image[None]).logits.softmax(-1)} for image in images]


def test_a_list_of_samples_is_a_batch(image: Tensor) -> None:
    original = lively(Detector())
    model = sesurgery.apply(original, "standard", example_input=([image[0]],)).model
    result = sesurgery.verify(original, model, ([image[0]],))
    assert result
    assert [case.name for case in result.cases][:3] == ["eval, batch 1", "eval, batch 2", "eval, 19 x 21"]
    assert "targets should not be none" in result.cases[-1].reason


# for people and for programs


def test_the_page_fits_and_notebooks_show_it(image: Tensor) -> None:
    original = small_resnet()
    model = sesurgery.apply(original, "standard", input_size=SIZE).model
    model.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1e-3
    text = str(sesurgery.verify(original, model))
    assert max(map(len, text.splitlines())) <= 100
    assert "gradient" in text
    assert "layer1.0.conv1.weight" in text
    empty = Verification("Net", (), (Difference("train", "output", "['a']", "values", "2 < 3", 1.0),))
    assert "2 &lt; 3" in empty._repr_html_()


APPLY = ["apply", TINY, "--recipe", "standard", "--verify"]


def test_the_command_line_verifies_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, [*APPLY, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "nothing differs" in result.stdout
    assert (out / "surgery.json").is_file()
    data = json.loads(CliRunner().invoke(app, [*APPLY, "--json"]).stdout)["verification"]
    assert data["equal"] is True
    assert data["differences"] == []
    assert {case["outcome"] for case in data["cases"]} == {"equal"}


def test_a_difference_is_exit_code_1_and_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = sesurgery.apply

    def broken(*args: Any, **kwargs: Any) -> Any:
        surgery = apply(*args, **kwargs)
        surgery.model.register_forward_hook(lambda model, args, output: output * float("nan"))
        return surgery

    monkeypatch.setitem(sesurgery.__dict__, "apply", broken)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, [*APPLY, "-o", str(out), "--json"])
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["output"] is None
    assert data["verification"]["equal"] is False
    assert data["verification"]["differences"][0]["size"] is None
    assert "nothing was saved" in result.stderr
    assert not out.exists()
