"""Operated models in accelerate: prepared, trained, stored, unwrapped, offloaded and reverted."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from networks import TINY, lively
from torch import nn

import sesurgery
from sesurgery.errors import ModelError

accelerate = pytest.importorskip("accelerate")
from accelerate.hooks import remove_hook_from_submodules  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.rand(2, 3, 64, 64)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return lively(sesurgery.models.zoo.create(sesurgery.models.zoo.resolve(TINY)))


def operated() -> nn.Module:
    return lively(sesurgery.apply(plain(), "se-3x3", input_size="64").model)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_prepared_trained_stored_and_unwrapped(precision: str, tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model, old = operated(), plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    layer = model.get_submodule(sesurgery.plans_of(model)[0].edits[0].path)
    before = layer.fc1.weight.detach().clone()
    accelerator.backward(prepared.train()(IMAGES).square().sum())
    optimizer.step()
    assert not torch.equal(layer.fc1.weight, before)
    accelerator.save_state(str(tmp_path))
    state = copy.deepcopy(model.state_dict())
    lively(model)
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert accelerator.unwrap_model(prepared) is model
    assert sesurgery.revert(prepared).state_dict().keys() == old.state_dict().keys()
    old.load_state_dict(model.state_dict())
    bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert torch.equal(bare.eval()(IMAGES), old.eval()(IMAGES))


def test_offloaded_it_gives_the_same_and_is_reverted(tmp_path: Path) -> None:
    model, old, cpu = operated(), plain(), torch.device("cpu")
    state = {key: value for key, value in model.state_dict().items() if key in old.state_dict()}
    old.load_state_dict(state)
    with torch.no_grad():
        wanted, bare = model(IMAGES), old(IMAGES)
        assert not torch.equal(wanted, bare)
        for offloaded in (
            accelerate.cpu_offload(copy.deepcopy(model), cpu),
            accelerate.disk_offload(copy.deepcopy(model), str(tmp_path), cpu),
        ):
            assert torch.equal(offloaded(IMAGES), wanted)
            assert torch.equal(sesurgery.revert(offloaded)(IMAGES), bare)
            remove_hook_from_submodules(offloaded)
            assert torch.equal(offloaded(IMAGES), bare)


def test_weights_are_loaded_into_an_empty_model(tmp_path: Path) -> None:
    model = operated()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with accelerate.init_empty_weights():
        empty = plain()
    empty = sesurgery.apply(empty, "se-3x3", input_size="64", inplace=True).model
    loaded = accelerate.load_checkpoint_and_dispatch(empty, str(tmp_path / "weights.pth"), device_map={"": "cpu"})
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IMAGES), model.eval()(IMAGES))


def test_what_is_offloaded_is_operated_on_before() -> None:
    offloaded = accelerate.cpu_offload(plain(), torch.device("cpu"))
    with pytest.raises(ModelError, match=r"offloaded by accelerate.*operate first"):
        sesurgery.apply(offloaded, "standard", input_size="64", inplace=True)


def test_what_is_offloaded_is_measured_and_written_once_it_is_back(tmp_path: Path) -> None:
    model = operated()
    wanted = sesurgery.gates(model).layers
    offloaded = accelerate.cpu_offload(model, torch.device("cpu"))
    assert [gate.path for gate in sesurgery.gates(offloaded).layers] == [gate.path for gate in wanted] != []
    for write in (sesurgery.save, sesurgery.eject):
        with pytest.raises(ModelError, match="offloaded by accelerate; bring them back first"):
            write(offloaded, tmp_path / write.__name__)
    remove_hook_from_submodules(offloaded)
    sesurgery.save(offloaded, tmp_path / "a")
