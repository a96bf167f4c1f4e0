"""Checkpoints: what is read, what is refused, and that nothing is loaded by halves."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from sesurgery.errors import ModelError, WeightsError
from sesurgery.models.checkpoints import LoadReport, load_into, read_state_dict


def make() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".tar", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, suffix: str, zipped: bool) -> None:
    state = make().state_dict()
    torch.save(state, tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    assert equal(read_state_dict(tmp_path / f"w{suffix}"), state)


def test_safetensors(tmp_path: Path) -> None:
    state = make().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    assert equal(read_state_dict(str(tmp_path / "w.safetensors")), state)


@pytest.mark.parametrize(
    ("wrap", "notes"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, ['took the weights from "state_dict"']),
        (lambda s: {"model": s, "model_ema": s}, ['took the weights from "model" (not "model_ema")']),
        (lambda s: {"model_ema": s, "args": argparse.Namespace(lr=1)}, ['took the weights from "model_ema"']),
        (lambda s: {"model": {"state_dict": s}}, ['from "model"', 'from "state_dict"']),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, ['stripped "module." from every key']),
        (lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}, ['"module."', '"_orig_mod."']),
        (lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}, ['"state_dict"', '"module."']),
    ],
)
def test_wrapped_checkpoints(tmp_path: Path, wrap: Callable[..., object], notes: list[str]) -> None:
    state = make().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    assert equal(read_state_dict(tmp_path / "w.pth"), state)
    model = make()
    report = load_into(model, tmp_path / "w.pth")
    assert equal(model.state_dict(), state)
    assert report.keys == len(state)
    assert len(report.notes) == len(notes)
    assert all(note in told for note, told in zip(notes, report.notes, strict=True))


def test_a_prefix_that_the_model_has_is_kept(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": make()})
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert load_into(model, tmp_path / "w.pth").notes == ()


def test_a_prefix_of_some_keys_is_kept(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth")) == {"module.a", "b"}


def save_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def cut(share: float, zipped: bool = True) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        torch.save(make().state_dict(), path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return save


def cut_safetensors(path: Path) -> None:
    save_file(make().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-20])


def archive(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, its files are not
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


BAD_FILES = [
    ("w.pth", None, "no such file; check the path"),
    ("w.pth", lambda path: path.mkdir(), "is a folder"),
    ("w.pth", save_bytes(b""), "is empty"),
    ("w.h5", save_bytes(b"x"), ".safetensors, .pth"),
    ("w", save_bytes(b"x"), ".safetensors, .pth"),
    ("w.pth", save_bytes(b"hello world\n"), "is truncated or no checkpoint"),
    ("w.pth", cut(0.5), "is truncated or no checkpoint"),
    ("w.pth", cut(0.99), "is truncated or no checkpoint"),
    ("w.pth", cut(0.5, zipped=False), "is truncated or no checkpoint"),
    ("w.pth", cut(0.99, zipped=False), "is truncated or no checkpoint"),
    ("w.safetensors", cut_safetensors, "is truncated or no checkpoint"),
    ("w.safetensors", save_bytes(b"\xff" * 64), "is truncated or no checkpoint"),
    ("w.safetensors", save_bytes(b"{}"), "is truncated or no checkpoint"),
    ("w.pth", lambda path: torch.save(make(), path), "pickled code (torch.nn.modules.container.Sequential)"),
    ("w.pt", archive, "is a TorchScript archive"),
    ("w.pth", lambda path: torch.save([torch.ones(1)], path), "holds list, not a dict of tensors"),
    ("w.pth", lambda path: torch.save(torch.ones(1), path), "holds Tensor, not a dict of tensors"),
    ("w.pth", lambda path: torch.save({}, path), "holds no tensors"),
    ("w.pth", lambda path: torch.save({"model": {}}, path), "holds no tensors"),
    ("w.pth", lambda path: torch.save({"epoch": 3}, path), "'epoch' holds int"),
    ("w.pth", lambda path: torch.save({3: torch.ones(1)}, path), "'3' holds Tensor"),
]


@pytest.mark.parametrize(("name", "save", "words"), BAD_FILES)
def test_bad_files(tmp_path: Path, name: str, save: Callable[[Path], None] | None, words: str) -> None:
    path = tmp_path / name
    if save is not None:
        save(path)
    model = make()
    before = copy.deepcopy(model.state_dict())
    for read in (read_state_dict, lambda p: load_into(model, p)):
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert words in str(caught.value)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, kind: str) -> None:
    path, flag = tmp_path / "w.pth", tmp_path / "ran"
    content = {"state_dict": Trap(flag)}
    if kind == "raw":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"refused: it holds pickled code.*model\.state_dict\(\)"):
        read_state_dict(path)
    assert not flag.exists()


def test_keys_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    state = make().state_dict()
    state["3.wieght"] = state.pop("3.weight")
    state["extra"] = torch.ones(1)
    state["0.bias"] = torch.ones(9)
    torch.save(state, tmp_path / "w.pth")
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError) as caught:
        load_into(model, tmp_path / "w.pth")
    message = str(caught.value)
    assert "1 missing: 3.weight\n" in message
    assert '2 unexpected: 3.wieght (near "3.weight"), extra\n' in message
    assert "1 of another shape: 0.bias is (9,), the model's (4,)" in message
    assert "nothing was loaded" in message
    assert "model_args it was made with" in message
    assert equal(model.state_dict(), before)


def test_long_lists_are_cut_at_ten(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(14)])
    torch.save({"0.weight": torch.ones(1, 1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"13 missing: 1\.weight.*10\.weight and 3 more"):
        load_into(model, tmp_path / "w.pth")


def test_complex_values_do_not_fit_real_ones(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 1, dtype=torch.complex64)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"weight is complex \(1, 1\), the model's \(1, 1\)"):
        load_into(nn.Linear(1, 1, bias=False), tmp_path / "w.pth")


def test_other_dtypes_are_cast_and_told(tmp_path: Path) -> None:
    torch.save({key: value.double() for key, value in make().state_dict().items()}, tmp_path / "w.pth")
    model = make()
    report = load_into(model, tmp_path / "w.pth")
    assert report.notes == ("cast float64 to float32", "cast float64 to int64")
    assert model[0].weight.dtype == torch.float32


def test_batch_counters_may_be_absent(tmp_path: Path) -> None:
    state = make().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pth")
    model = make()
    model[1].num_batches_tracked.fill_(5)
    assert load_into(model, tmp_path / "w.pth").notes == ("kept 1 batch counters that the file does not hold",)
    assert model[1].num_batches_tracked == 5


def test_shared_tensors_come_under_one_name(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    source, model = tied(), tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    assert load_into(model, tmp_path / "w.safetensors").notes == ("1 shared tensors came under another name",)
    assert equal(model.state_dict(), source.state_dict())
    assert model[0].weight is model[1].weight


def test_values_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    state = make().state_dict()
    state["0.bias"][0] = float("nan")
    state["3.bias"][0] = float("inf")
    torch.save(state, tmp_path / "w.pth")
    report = load_into(make(), tmp_path / "w.pth")
    assert report.nonfinite == ("0.bias", "3.bias")
    assert report.warnings == ("2 tensors hold NaN or infinity: 0.bias, 3.bias",)
    assert LoadReport("w.pth", 7).warnings == ()


def test_a_model_that_refuses_half_way_keeps_what_it_had(tmp_path: Path) -> None:
    class Picky(nn.Linear):
        def _load_from_state_dict(self, state: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
            raise RuntimeError("not with me")

    source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = nn.Sequential(nn.Linear(2, 2), Picky(2, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match="the model refused it, and keeps what it had: not with me"):
        load_into(model, tmp_path / "w.pth")
    assert equal(model.state_dict(), before)


def test_version_marks_survive(tmp_path: Path) -> None:
    """A module that converts weights without a version mark must not convert what already fits."""

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state: dict, prefix: str, meta: dict, *rest: object) -> None:
            if meta.get("version", 1) < 2:
                state[prefix + "weight"] = -state[prefix + "weight"]
            super()._load_from_state_dict(state, prefix, meta, *rest)

    model = Versioned(2, 2)
    save_file({key: value + 1 for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    expected = model.weight.detach() + 1
    load_into(model, tmp_path / "w.safetensors")
    assert torch.equal(model.weight, expected)


def test_a_model_on_meta_is_refused(tmp_path: Path) -> None:
    torch.save(make().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="meta device"):
        load_into(make().to("meta"), tmp_path / "w.pth")
