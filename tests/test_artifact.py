"""Artefacts: what is saved comes back bit for bit, whole or not at all, and nothing in a folder is trusted."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import Branching
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import sesurgery
from sesurgery import artifact_files, examples
from sesurgery.artifact import read
from sesurgery.artifact_record import MAX_BYTES
from sesurgery.errors import ArtifactError, InputError, SurgeryError
from sesurgery.weights_file import DTYPES, write_tensors

TINY = "timm:test_resnet"
RECORD = "surgery.json"


def tiny(recipe: str = "standard", model: str | nn.Module = TINY, **kwargs: Any) -> sesurgery.Surgery:
    """An operated tiny network whose every weight and buffer is a number of its own."""
    surgery = sesurgery.apply(model, recipe, **kwargs)
    shake(surgery.model)
    return surgery


def shake(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        else:
            tensor.add_(3)


def output(model: nn.Module, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    first = next(model.parameters())
    with torch.no_grad():
        return copy.deepcopy(model).eval()(torch.rand(1, 3, size, size, generator=generator).to(first.dtype))


def assert_same(one: nn.Module, two: nn.Module) -> None:
    old, new = one.state_dict(), two.state_dict()
    assert list(old) == list(new)
    for key in old:
        assert old[key].dtype == new[key].dtype, key
        assert torch.equal(old[key], new[key]), key
    kinds = [(path, type(module).__mro__[1:]) for path, module in one.named_modules()]
    assert kinds == [(path, type(module).__mro__[1:]) for path, module in two.named_modules()]
    assert torch.equal(output(one), output(two))


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = record_of(folder)
    change(record)
    (folder / RECORD).write_text(json.dumps(record))


# what comes back


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
    assert record_of(tmp_path / "a")["base"] == {"reference": TINY, "args": {"num_classes": 7}}
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_writer_writes_what_the_library_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "ü.scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
        "wide": torch.ones(5, 3, dtype=torch.float64),
        "odd": torch.arange(7).reshape(7, 1).to(dtype),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    save_file(tensors, tmp_path / "y.safetensors", metadata={"format": "pt"})
    ours, theirs = load_file(tmp_path / "x.safetensors"), load_file(tmp_path / "y.safetensors")
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].shape == theirs[key].shape
        assert torch.equal(ours[key].reshape(-1).view(torch.uint8), theirs[key].reshape(-1).view(torch.uint8))


def test_examples_are_described_and_rebuilt() -> None:
    args = (torch.zeros(2, 3), {"mask": torch.zeros(1, dtype=torch.int64), "n": 2}, [None, True, 1.5, "x"])
    data = json.loads(json.dumps(examples.describe(args)))
    assert examples.describe(examples.rebuild(data)) == data
    assert examples.rebuild(data)[0].is_meta
    assert examples.describe((object(),)) is None
    for bad in ({"tensor": [1 << 50], "dtype": "float32"}, {"tensor": [-1], "dtype": "float32"}, {"tuple": 3}, 3, {}):
        with pytest.raises(ValueError, match="input"):
            examples.rebuild(bad)


# where it goes


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


# saves that are cut off

STEPS = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, nn.Module]:
    """A saved artefact with removed weights, its model, and another one that has none."""
    folder = tmp_path_factory.mktemp("pair") / "old"
    old = tiny("swap-attention", "timm:test_efficientnet").model
    sesurgery.save(old, folder)
    new = tiny("backbone-end", "timm:test_efficientnet").model
    return folder, old, new


class CutOffError(BaseException):
    """Stands for a kill: nobody catches it."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int, killed: bool) -> list[str]:
    """Fail at the ``step``-th call that reaches the disk; ``killed``: nothing is tidied up either."""
    calls: list[str] = []

    def broken(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                raise CutOffError if killed else OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for name in ("replace", "rename", "fsync"):
        monkeypatch.setattr(os, name, broken(name, getattr(os, name)))
    writer = broken("write", artifact_files.write_tensors)
    monkeypatch.setattr(artifact_files, "write_tensors", writer)
    monkeypatch.setattr(artifact_files, "sync_folder", broken("sync", artifact_files.sync_folder))
    if killed:
        sweep = artifact_files._sweep
        monkeypatch.setattr(artifact_files, "_sweep", lambda folder: None if len(calls) >= step else sweep(folder))
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    return calls


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("direction", ["removed goes", "removed comes"])
def test_a_save_cut_off_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, pair: tuple[Path, nn.Module, nn.Module], killed: bool, direction: str
) -> None:
    folder, old, new = pair
    if direction == "removed comes":
        old, new = new, old
        folder = tmp_path / "other"
        sesurgery.save(old, folder)
    seen: list[str] = []
    for step in range(1, STEPS):
        place = tmp_path / str(step)
        shutil.copytree(folder, place)
        with pytest.MonkeyPatch.context() as patch:
            calls = cut_at(patch, step, killed)
            try:
                sesurgery.save(new, place)
                finished = True
            except (CutOffError, ArtifactError):
                finished = False
        state = {key: value.clone() for key, value in read(place).model.items()}
        which = [name for name, model in (("old", old), ("new", new)) if equal(state, model)]
        assert len(which) == 1, calls
        seen += which
        assert finished or len(calls) >= step
        if not finished and which == ["old"] and not killed:
            assert sorted(os.listdir(place)) == sorted(os.listdir(folder))
        sesurgery.save(new, place)
        assert equal(read(place).model, new)
        assert sorted(os.listdir(place)) == sorted(
            {RECORD, *(f"{role}.safetensors" for role in record_of(place)["weights"])}
        )
        if len(calls) < step:
            break
    assert seen == sorted(seen, reverse=True), "once the new one counts, it counts for good"
    assert set(seen) == {"old", "new"}


def equal(state: dict[str, torch.Tensor], model: nn.Module) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


@pytest.mark.parametrize("killed", [False, True])
def test_a_first_save_cut_off_leaves_nothing_that_loads(tmp_path: Path, killed: bool) -> None:
    model = tiny().model
    for step in range(1, STEPS):
        place = tmp_path / str(step) / "sub" / "a"
        with pytest.MonkeyPatch.context() as patch:
            calls = cut_at(patch, step, killed)
            with contextlib.suppress(CutOffError, ArtifactError):
                sesurgery.save(model, place)
        if len(calls) < step:
            break
        if place.exists():
            assert equal(read(place).model, model)
        elif not killed:
            assert not (tmp_path / str(step)).exists()
        sesurgery.save(model, place)
        assert os.listdir(place.parent) == ["a"], "what a killed save left beside it is gone"
        assert equal(read(place).model, model)
    assert step > 4


def test_a_commit_is_finished_by_the_next_save_even_if_that_one_fails(
    tmp_path: Path, pair: tuple[Path, nn.Module, nn.Module]
) -> None:
    folder, _, new = pair
    place = tmp_path / "a"
    shutil.copytree(folder, place)
    with pytest.MonkeyPatch.context() as patch:
        # write, fsync of the record, commit, sync, and the first file in its place
        calls = cut_at(patch, 9, killed=True)
        with pytest.raises(CutOffError):
            sesurgery.save(new, place)
        assert calls.count("replace") >= 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact_files, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(ArtifactError, match="full"):
            sesurgery.save(sesurgery.apply("timm:test_efficientnet", "swap-attention"), place)
    assert equal(read(place).model, new)
    assert sorted(os.listdir(place)) == ["model.safetensors", RECORD]


# damage and malice


def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "a"
    sesurgery.save(tiny(), folder)
    return folder


def edit(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for each in record["operations"][0]["plan"]["edits"]:
            each[field] = value

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda r: r.update(extra=1), "extra"),
    "newer format": (lambda r: r.update(version=2), "upgrade"),
    "other format": (lambda r: r.update(format="zip"), "no record"),
    "no weights": (lambda r: r.update(weights={}), "weights"),
    "weights of a foreign file": (
        lambda r: r["weights"].update({"../../etc/passwd": r["weights"]["model"]}),
        "weights",
    ),
    "no digest": (lambda r: r["weights"]["model"].update(sha256="x"), "sha256"),
    "no operations": (lambda r: r.update(operations=[]), "operations"),
    "plan of text": (lambda r: r["operations"][0].update(plan="x"), "plan"),
    "plan without edits": (lambda r: r["operations"][0]["plan"].update(edits=[]), "changes nothing"),
    "plan of numbers": (lambda r: r["operations"][0]["plan"].update(edits=[1, 2]), "no plan"),
    "edit of another kind": (edit("action", "__import__"), "actions"),
    "edit with a number for a path": (edit("path", 7), "path is a int"),
    "code in a name": (edit("path", "layer1.0.se(x);import_os"), "no name of a new module"),
    "a line in a name": (edit("path", "layer1.0.se\n    raise"), "no path of a module"),
    "dunder name": (edit("path", "layer1.0.__class__"), "no name of a new module"),
    "name of a method": (edit("path", "layer1.0.forward"), "no name of a new module"),
    "keyword name": (edit("path", "layer1.0.class"), "no name of a new module"),
    "traversal in a host": (edit("host", "../../etc"), "no path of a module|no such module"),
    "host that is not there": (edit("host", "layer9.0"), "no such module"),
    "unknown node": (edit("module", "os.system"), "unknown module"),
    "huge channels": (edit("options", {"shape": [1, 10**15, 8, 8], "axis": 1}), "cannot be repeated|asks for"),
    "huge reduction": (
        edit("options", {"shape": [1, 32, 8, 8], "axis": 1, "reduction": 10**400}),
        "cannot be repeated",
    ),
    "wrong axis": (edit("options", {"shape": [1, 32, 8, 8], "axis": 99}), "cannot be repeated"),
    "no options": (edit("options", {}), "cannot be repeated"),
    "forged fingerprint": (edit("fingerprint", "0"), "cannot be repeated"),
    "input of nothing": (lambda r: r["operations"][0].update(input={"tuple": "x"}), "input"),
    "huge input": (
        lambda r: r["operations"][0].update(input={"tuple": [{"tensor": [10**30], "dtype": "float32"}]}),
        "input",
    ),
    "base by file": (lambda r: r["base"].update(reference="evil.py:run"), "trust_code"),
    "base by import": (lambda r: r["base"].update(reference="os:system", args={"command": "true"}), "trust_code"),
    "base by hub": (lambda r: r["base"].update(reference="hf-hub:x/y"), "would fetch"),
    "base that is not there": (lambda r: r["base"].update(reference="timm:resnet1800"), "resnet"),
    "base with weights": (lambda r: r["base"].update(args={"checkpoint_path": "/etc/passwd"}), "would load weights"),
    "base with pretrained": (lambda r: r["base"].update(args={"pretrained": True}), "would load weights"),
    "huge base": (lambda r: r["base"].update(args={"num_classes": 10**9}), "asks for a model"),
    "another base": (lambda r: r["base"].update(reference="timm:test_vit"), "cannot be repeated"),
    "other classes": (lambda r: r["base"].update(args={"num_classes": 3}), "do not fit"),
    "alias of nothing": (lambda r: r["aliases"]["model"].update(a="b"), "alias"),
    "alias over a tensor": (lambda r: r["aliases"]["model"].update({"fc.weight": "fc.bias"}), "alias"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused(tmp_path: Path, sound: Path, name: str) -> None:
    change, message = HOSTILE[name]
    folder = damaged(sound, tmp_path)
    rewrite(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        sesurgery.load(folder)
    assert caught.value.where
    assert "Traceback" not in str(caught.value)
    assert os.listdir(tmp_path) == ["damaged"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "truncated or no JSON"),
        (b"\xff\xfe", "truncated or no JSON"),
        (b"[" * 100_000, "nested too deep|no JSON"),
        (b'{"format": "sesurgery", "format": "x"}', "twice"),
        (b'{"format": NaN}', "no number"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "no JSON"),
        (b"[]", "no record"),
        (b'{"format": "sesurgery"}', "Field required"),
        (b"null", "no record"),
    ],
)
def test_texts_that_are_no_record(tmp_path: Path, sound: Path, text: bytes, message: str) -> None:
    folder = damaged(sound, tmp_path)
    (folder / RECORD).write_bytes(text)
    with pytest.raises(ArtifactError, match=message):
        sesurgery.load(folder)


def test_damaged_files_are_refused(tmp_path: Path, sound: Path) -> None:
    weights = (sound / "model.safetensors").read_bytes()
    flipped = bytearray(weights)
    flipped[len(flipped) // 2] ^= 1
    cases = [
        (weights[:-1], "truncated"),
        (weights + b"x", "not the file"),
        (flipped, "has changed"),
        (None, "is missing"),
    ]
    for number, (data, message) in enumerate(cases):
        folder = Path(shutil.copytree(sound, tmp_path / str(number)))
        (folder / "model.safetensors").unlink()
        if data is not None:
            (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(ArtifactError, match=message):
            sesurgery.load(folder)


@pytest.mark.parametrize("data", [b"", b"12345678", b"\x08" + b"\0" * 7 + b'{"a":1}}', b"\xff" * 64])
def test_weights_that_are_none_though_their_digest_fits(tmp_path: Path, sound: Path, data: bytes) -> None:
    folder = damaged(sound, tmp_path)
    (folder / "model.safetensors").write_bytes(data)
    facts = artifact_files.file_facts(folder / "model.safetensors").model_dump()
    rewrite(folder, lambda record: record["weights"].update(model=facts))
    with pytest.raises(ArtifactError, match="no safetensors file"):
        sesurgery.load(folder)


def test_weights_of_other_shapes_and_keys_are_refused(tmp_path: Path, sound: Path) -> None:
    whole = load_file(sound / "model.safetensors")
    changes: list[tuple[dict[str, torch.Tensor], str]] = [
        ({**whole, "fc.bias": torch.zeros(3)}, "another shape"),
        ({**whole, "fc.bias": torch.zeros(whole["fc.bias"].shape, dtype=torch.int64)}, "another shape"),
        ({**whole, "__class__": torch.zeros(1)}, "unexpected"),
        ({key: value for key, value in whole.items() if key != "fc.bias"}, "missing"),
    ]
    for number, (tensors, message) in enumerate(changes):
        folder = Path(shutil.copytree(sound, tmp_path / str(number)))
        save_file(tensors, folder / "model.safetensors")
        facts = artifact_files.file_facts(folder / "model.safetensors").model_dump()
        rewrite(folder, lambda record, facts=facts: record["weights"].update(model=facts))
        with pytest.raises(ArtifactError, match=message):
            sesurgery.load(folder)


def test_a_record_that_is_no_file_or_too_large(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)
    (folder / RECORD).unlink()
    os.mkfifo(folder / RECORD)
    with pytest.raises(ArtifactError, match=r"no surgery\.json"):
        sesurgery.load(folder)
    (folder / RECORD).unlink()
    with (folder / RECORD).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        sesurgery.load(folder)


def test_a_link_planted_in_a_folder_is_not_written_through(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in ("model.safetensors.new", "surgery.json.tmp", "surgery.json.new", "removed.safetensors.new"):
        (folder / name).symlink_to(outside)
    sesurgery.save(tiny("post"), folder)
    assert outside.read_text() == "mine"
    assert sorted(os.listdir(folder)) == ["model.safetensors", RECORD]


def test_other_versions_are_named_where_a_plan_no_longer_fits(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)

    def change(record: dict[str, Any]) -> None:
        record["versions"]["timm"] = "0.0.1"
        edit("fingerprint", "0")(record)

    rewrite(folder, change)
    with pytest.raises(SurgeryError, match=r"timm 0\.0\.1, here"):
        sesurgery.load(folder)
