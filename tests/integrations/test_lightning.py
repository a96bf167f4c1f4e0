"""Operated networks in checkpoints of Lightning: built anew, operated again, loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import TINY, lively
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sesurgery
from sesurgery.errors import ArtifactError
from sesurgery.integrations.lightning import KeepsOperations

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.rand(4, 3, 64, 64)


class Plain(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = sesurgery.models.zoo.create(sesurgery.models.zoo.resolve(TINY))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Keeping(KeepsOperations, Plain):
    pass


def trainer(epochs: int, folder: Path) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet)


def fitted(module: Any, folder: Path, epochs: int = 1, start: str | None = None) -> str:
    training = trainer(epochs, folder)
    training.fit(module, DataLoader(TensorDataset(IMAGES), batch_size=2), ckpt_path=start)
    file = str(folder / f"{epochs}.ckpt")
    training.save_checkpoint(file)
    return file


def operated(kind: type) -> Any:
    module = kind()
    sesurgery.apply(module.net, "se-3x3", input_size="64", inplace=True)
    return module


def output(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(module.net).eval()(IMAGES)


def test_a_checkpoint_is_loaded_with_its_layers(tmp_path: Path) -> None:
    module = operated(Keeping)
    lively(module.net)
    file = fitted(module, tmp_path)
    again = Keeping.load_from_checkpoint(file)
    assert len(sesurgery.plans_of(again.net)) == 1
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in again.state_dict().items())
    assert torch.equal(output(again), output(module))
    assert torch.load(file, weights_only=True)["sesurgery"]


def test_a_training_goes_on(tmp_path: Path) -> None:
    module = operated(Keeping)
    file = fitted(module, tmp_path)
    for fresh in (Keeping(), operated(Keeping)):
        fitted(fresh, tmp_path, 2, file)
        assert len(sesurgery.plans_of(fresh.net)) == 1
        layer: nn.Module = fresh.net.get_submodule(sesurgery.plans_of(fresh.net)[0].edits[0].path)
        assert all(each.grad is not None for each in layer.parameters())


def test_without_it_the_layers_are_refused(tmp_path: Path) -> None:
    file = fitted(operated(Plain), tmp_path)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Plain.load_from_checkpoint(file)


def test_another_operation_is_refused(tmp_path: Path) -> None:
    file = fitted(operated(Keeping), tmp_path)
    other = Keeping()
    sesurgery.apply(other.net, "standard", input_size="64", inplace=True)
    with pytest.raises(ArtifactError, match="in another way"):
        fitted(other, tmp_path, 2, file)
