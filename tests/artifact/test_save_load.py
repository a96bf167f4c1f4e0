"""Artefacts: what is saved comes back bit for bit, and goes only where it may."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import TINY, Branching
from safetensors import safe_open
from safetensors.torch import load_file
from saved import RECORD, assert_same, output, record_of, tiny
from torch import nn

import sesurgery
from sesurgery.artifact.save_load import read
from sesurgery.errors import ArtifactError, InputError


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        (TINY, "standard"),
        (TINY, "pre"),
        (TINY, "identity"),
        (TINY, "se-3x3"),
        (TINY, "backbone-end"),
        ("timm:test_vit", "standard"),
        ("timm:test_efficientnet", "swap-attention"),
        ("timm:test_efficientnet", "shufflenet-k5"),
        ("timm:mobilenetv2_035", "shufflenet-csp"),
        ("torchvision:shufflenet_v2_x0_5", "shufflenet-liteconv"),
    ],
)
def test_round_trip(tmp_path: Path, model: str, recipe: str) -> None:
    size = {"test_vit": 160}.get(model.partition(":")[2], 64)
    surgery = tiny(recipe, model)
    before = output(surgery.model, size)
    sesurgery.save(surgery, tmp_path / "a")
    loaded = sesurgery.load(tmp_path / "a")
    assert torch.equal(before, output(loaded, size))
    assert not loaded.training
    if size == 64:
        assert_same(surgery.model, loaded)
    base = load_file(sesurgery.revert_folder(tmp_path / "a", tmp_path / "base") / "model.safetensors")
    for operated in (loaded, surgery.model):
        reverted = sesurgery.revert(operated).state_dict()
        assert base.keys() == reverted.keys()
        assert all(torch.equal(base[key], reverted[key]) for key in base)
    assert not any(tmp_path.glob(".*"))


def test_a_trained_model_comes_back_in_its_mode_and_trains_on(tmp_path: Path) -> None:
    surgery = tiny()
    surgery.model.train()
    sesurgery.save(surgery.model, tmp_path / "a")
    loaded = sesurgery.load(tmp_path / "a")
    assert loaded.training
    loaded(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_several_operations_and_a_second_save_of_what_was_loaded(tmp_path: Path) -> None:
    once = sesurgery.apply(TINY, "standard", stages=1)
    twice = sesurgery.apply(once.model, "post", module="eca", stages=2)
    thrice = tiny("swap-attention", twice.model)
    sesurgery.save(thrice, tmp_path / "a")
    assert len(record_of(tmp_path / "a")["operations"]) == 3
    loaded = sesurgery.load(tmp_path / "a")
    assert_same(thrice.model, loaded)
    sesurgery.save(loaded, tmp_path / "b")
    assert_same(loaded, sesurgery.load(tmp_path / "b"))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert list(sesurgery.revert(loaded).state_dict()) == list(timm.create_model("test_resnet").state_dict())


def test_arguments_of_the_builder_are_kept(tmp_path: Path) -> None:
    surgery = sesurgery.apply(TINY, "standard", model_args={"num_classes": 7})
    sesurgery.save(surgery, tmp_path / "a")
    assert record_of(tmp_path / "a")["base"] == {
        "reference": TINY,
        "args": {"num_classes": 7},
        "pretrained": False,
    }
    assert output(sesurgery.load(tmp_path / "a")).shape == (1, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    surgery = tiny("swap-attention", "timm:test_efficientnet")
    surgery.model.to(dtype)
    sesurgery.save(surgery, tmp_path / "a")
    loaded = sesurgery.load(tmp_path / "a")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert_same(surgery.model, loaded)
    base = load_file(sesurgery.revert_folder(tmp_path / "a", tmp_path / "b") / "model.safetensors")
    reverted = sesurgery.revert(loaded).state_dict()
    assert all(torch.equal(base[key], reverted[key]) and base[key].dtype == reverted[key].dtype for key in base)


class Tied(Branching):
    """Two blocks with one set of weights, one module at two places, and a buffer that no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first[1].conv1.weight = self.first[0].conv1.weight
        self.second[1] = self.second[0]
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    surgery = tiny("standard", Tied())
    surgery.model.bfloat16()
    sesurgery.save(surgery, tmp_path / "a")
    with safe_open(tmp_path / "a/model.safetensors", "pt") as file:
        stored = list(file.keys())
    assert "first.1.conv1.weight" not in stored
    assert not any(key.startswith("second.1.") for key in stored)
    loaded = sesurgery.load(tmp_path / "a", model=Tied())
    assert_same(surgery.model, loaded)
    assert isinstance(loaded, Tied)
    assert loaded.first[1].conv1.weight is loaded.first[0].conv1.weight
    assert loaded.second[1] is loaded.second[0]
    assert loaded.scale.dtype == torch.bfloat16
    base = sesurgery.revert_folder(tmp_path / "a", tmp_path / "b") / "model.safetensors"
    assert load_file(base).keys() == Tied().state_dict().keys()


def test_a_model_of_ones_own_needs_an_instance_and_its_example(tmp_path: Path) -> None:
    surgery = tiny("standard", Branching(), example_input=torch.rand(1, 3, 24, 40))
    sesurgery.save(surgery, tmp_path / "a")
    described = {"tuple": [{"tensor": [1, 3, 24, 40], "dtype": "float32"}]}
    assert record_of(tmp_path / "a")["operations"][0]["input"] == described
    with pytest.raises(ArtifactError, match=r"model of your own.*model=\.\.\."):
        sesurgery.load(tmp_path / "a")
    fresh = Branching()
    assert sesurgery.load(tmp_path / "a", model=fresh) is fresh
    assert_same(surgery.model, fresh)
    with pytest.raises(InputError, match="operated already"):
        sesurgery.load(tmp_path / "a", model=fresh)


@pytest.mark.parametrize(
    "wrong", [lambda: Branching(8), lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), lambda: tiny().model]
)
def test_an_instance_that_does_not_fit_stays_as_it_was(tmp_path: Path, wrong: Callable[[], nn.Module]) -> None:
    sesurgery.save(tiny("standard", Branching()), tmp_path / "a")
    model = wrong()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as caught:
        sesurgery.load(tmp_path / "a", model=model)
    assert caught.value.remedy
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_factory_in_the_folder_runs_only_if_trusted(tmp_path: Path, write_net: Callable[..., Path]) -> None:
    net = write_net()
    surgery = tiny("standard", f"{net}:net", model_args={"width": 4})
    sesurgery.save(surgery, tmp_path / "a")
    net.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n" + net.read_text())
    with pytest.raises(ArtifactError, match=r"trust_code=True"):
        sesurgery.load(tmp_path / "a")
    sesurgery.revert_folder(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "ran").exists()
    assert torch.equal(output(surgery.model), output(sesurgery.load(tmp_path / "a", trust_code=True)))
    assert (tmp_path / "ran").exists()


def test_arguments_that_json_has_no_words_for_make_it_a_model_of_ones_own(tmp_path: Path) -> None:
    surgery = sesurgery.apply(TINY, "standard", model_args={"act_layer": nn.SiLU})
    sesurgery.save(surgery, tmp_path / "a")
    assert record_of(tmp_path / "a")["base"] is None
    sesurgery.load(tmp_path / "a", model=timm.create_model("test_resnet", act_layer=nn.SiLU))


def test_loading_draws_from_no_pickle_and_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sesurgery.save(tiny(), tmp_path / "a")

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("never here")

    for place in ("pickle.loads", "pickle.load", "torch.load", "torch.hub.load_state_dict_from_url"):
        monkeypatch.setattr(place, forbidden)
    sesurgery.load(tmp_path / "a")


def test_the_operated_model_survives_deepcopy_pickle_and_torch_save(tmp_path: Path) -> None:
    model = tiny().model
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    for number, other in enumerate(copies):
        assert_same(model, other)
        sesurgery.save(other, tmp_path / str(number))
        assert_same(model, sesurgery.load(tmp_path / str(number)))
        sesurgery.revert(other)


def test_meta_gives_the_model_without_weights(tmp_path: Path) -> None:
    sesurgery.save(tiny(), tmp_path / "a")
    assert all(parameter.is_meta for parameter in sesurgery.load(tmp_path / "a", device="meta").parameters())


def test_rights_and_places(tmp_path: Path) -> None:
    model = tiny().model
    sesurgery.save(model, tmp_path / "new/deeper/a")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new/deeper/a/model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "empty").mkdir()
    sesurgery.save(model, tmp_path / "empty", overwrite=False)
    assert sorted(os.listdir(tmp_path / "empty")) == ["model.safetensors", RECORD]
    with pytest.raises(ArtifactError, match="overwrite=True"):
        sesurgery.save(model, tmp_path / "empty", overwrite=False)
    sesurgery.save(model, tmp_path / "empty", overwrite=True)


def test_refused_places_and_models(tmp_path: Path) -> None:
    model = tiny().model
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("mine")
    cases: list[tuple[Any, str, str]] = [
        (model, "file", "is a file"),
        (model, "file/below", "is a file"),
        (model, "full", "holds other files"),
        (timm.create_model("test_resnet"), "a", r"no operation has changed.*safetensors"),
        (sesurgery.apply(TINY, "standard", device="meta"), "a", "on meta.*cpu"),
        ("resnet18", "a", "a str is no operated model"),
    ]
    for operated, place, message in cases:
        with pytest.raises(InputError, match=message):
            sesurgery.save(operated, tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


def test_a_folder_without_rights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().model
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ArtifactError, match="may not be written to"):
        sesurgery.save(model, tmp_path / "a")


def test_reading_what_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for place, message in (("none", "no such folder"), ("file", "is a file"), ("empty", "holds no surgery.json")):
        for call in (sesurgery.load, read, lambda folder: sesurgery.revert_folder(folder, tmp_path / "out")):
            with pytest.raises(ArtifactError, match=message) as caught:
                call(tmp_path / place)
            assert caught.value.remedy
    sesurgery.save(tiny(), tmp_path / "a")
    with pytest.raises(ArtifactError, match="holds files already"):
        sesurgery.revert_folder(tmp_path / "a", tmp_path / "a")


class Pair(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x).relu())


def test_weights_that_were_two_do_not_load_into_one(tmp_path: Path) -> None:
    """torch would load both into the one tensor, and the last would win without a word."""
    example = torch.zeros(1, 4, 8, 8)
    sesurgery.save(sesurgery.apply(Pair(False), "standard", example_input=example), tmp_path / "a")
    fresh = Pair(True)
    with pytest.raises(ArtifactError, match=r"1 parted that are one here: second\.weight"):
        sesurgery.load(tmp_path / "a", model=fresh)
    assert not sesurgery.plans_of(fresh)
    sesurgery.save(sesurgery.apply(Pair(True), "standard", example_input=example), tmp_path / "b")
    assert len(sesurgery.plans_of(sesurgery.load(tmp_path / "b", model=Pair(False)))) == 1


class Packed(torch.Tensor):
    """A tensor whose numbers lie in another one, as those of torchao."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Packed:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.ops.aten.detach.default else NotImplemented


def test_tensors_made_of_others_are_refused(tmp_path: Path) -> None:
    operated = sesurgery.apply(Pair(False), "standard", example_input=torch.zeros(1, 4, 8, 8)).model
    operated.register_buffer("packed", Packed(torch.zeros(3)))
    with pytest.raises(ArtifactError, match="packed is sparse, quantized"):
        sesurgery.save(operated, tmp_path / "a")


def test_a_model_without_a_history_of_its_own_says_where_it_is(tmp_path: Path) -> None:
    whole = nn.Sequential(Pair(False))
    sesurgery.apply(whole, "standard", example_input=torch.zeros(1, 4, 8, 8), inplace=True)
    with pytest.raises(ArtifactError, match="a larger model, which held it; operate on this model itself"):
        sesurgery.save(whole[0], tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"lies inside of this one, at module; give that: model\.module"):
        sesurgery.save(nn.DataParallel(whole), tmp_path / "a")
