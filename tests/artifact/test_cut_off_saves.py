"""Saves that are cut off: afterwards the folder holds the old or the new, never something between."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kills
import pytest
import torch
from saved import RECORD, record_of, tiny
from torch import nn

import sesurgery
from sesurgery.artifact import folder as artifact_files
from sesurgery.artifact.save_load import read
from sesurgery.cli.options import check_output
from sesurgery.errors import ArtifactError

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


def test_a_killed_first_save_into_an_empty_folder_is_in_nobodys_way(tmp_path: Path) -> None:
    model = tiny().model
    for step in range(1, STEPS):
        place = tmp_path / str(step)
        place.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            calls = cut_at(patch, step, killed=True)
            with contextlib.suppress(CutOffError):
                sesurgery.save(model, place)
        if len(calls) < step:
            break
        with contextlib.suppress(ArtifactError):
            assert equal(read(place).model, model)
        check_output(place, force=True)
        sesurgery.save(model, place)
        assert sorted(os.listdir(place)) == ["model.safetensors", RECORD]
    assert step > 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its savers")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_few_kills_leave_the_old_or_the_new() -> None:
    found = kills.run(6, 1)
    assert found["wrong"] == 0
    assert found["killed inside a save"] > 0
