"""Operated networks in checkpoints of Lightning: built anew, operated again, loaded."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import TINY, lively
from places import ROOT
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

    def predict_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.net(batch[0])

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


@pytest.mark.parametrize("module", ["se", "simam"])  # simam has no weights, so no key of the state_dict tells of it
def test_what_would_load_without_the_layers_speaks_up(tmp_path: Path, module: str) -> None:
    with_layers = Plain()
    sesurgery.apply(with_layers.net, "standard", module=module, input_size="64", inplace=True)
    file = fitted(with_layers, tmp_path)
    with pytest.warns(
        UserWarning, match="in another way than this one; load it into a module that was not operated, with sesurgery"
    ):
        Plain.load_from_checkpoint(file, strict=False)
    with pytest.raises((ArtifactError, RuntimeError), match=r"in another way|Unexpected key"):
        Plain.load_from_checkpoint(file)
    lenient = Plain()
    lenient.strict_loading = False
    with pytest.warns(UserWarning, match="in another way than this one"):
        trainer(1, tmp_path).predict(lenient, DataLoader(TensorDataset(IMAGES)), ckpt_path=file)
    again = Keeping.load_from_checkpoint(file, strict=True)
    assert torch.equal(output(again), output(with_layers))


def test_another_operation_without_weights_speaks_up(tmp_path: Path) -> None:
    def weightless(stages: str) -> Any:
        module = Plain()
        sesurgery.apply(module.net, "standard", stages=stages, module="simam", input_size="64", inplace=True)
        return module

    file = fitted(weightless("1-4"), tmp_path)
    with pytest.raises(ArtifactError, match="operated in another way"):
        trainer(1, tmp_path).predict(weightless("4"), DataLoader(TensorDataset(IMAGES)), ckpt_path=file)


def test_a_module_that_operates_itself_is_let_alone(tmp_path: Path) -> None:
    class Operating(Plain):
        def __init__(self) -> None:
            super().__init__()
            sesurgery.apply(self.net, "standard", module="simam", input_size="64", inplace=True)

    module = Operating()
    file = fitted(module, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*in another way than this one")
        again = Operating.load_from_checkpoint(file, strict=False)
    assert torch.equal(output(again), output(module))


def test_another_operation_is_refused(tmp_path: Path) -> None:
    file = fitted(operated(Keeping), tmp_path)
    other = Keeping()
    sesurgery.apply(other.net, "standard", input_size="64", inplace=True)
    with pytest.raises(ArtifactError, match="in another way"):
        fitted(other, tmp_path, 2, file)


def test_what_cannot_be_told_is_said_when_it_is_saved(tmp_path: Path) -> None:
    module = Plain()
    sesurgery.apply(module.net, "standard", input_size="64", inplace=True)
    sesurgery.apply(module.net.layer1, "se-3x3", example_input=torch.zeros(1, 32, 16, 16), inplace=True)
    with pytest.warns(UserWarning, match=r"does not tell how it was operated.*came after the operation"):
        file = fitted(module, tmp_path)
    assert "sesurgery" not in torch.load(file, weights_only=True)


def test_a_process_that_operates_on_nothing_hears_of_it_where_there_is_a_trainer(tmp_path: Path) -> None:
    """Lightning asks the entry points of what is installed for callbacks, for every trainer."""
    with_layers = Plain()
    sesurgery.apply(with_layers.net, "standard", module="simam", input_size="64", inplace=True)
    file = fitted(with_layers, tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (installed := tmp_path / "sesurgery-0.dist-info").mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: sesurgery\nVersion: 0\n")
    points = [
        f"[{group}]\n{name} = {place}\n"
        for group, all_ in project["entry-points"].items()
        for name, place in all_.items()
    ]
    (installed / "entry_points.txt").write_text("\n".join(points))
    script = f"""
import lightning, timm, torch
class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model("test_resnet")
    def predict_step(self, batch, index):
        return self.net(batch)
quiet = dict(logger=False, enable_progress_bar=False, accelerator="cpu")
lightning.Trainer(**quiet).predict(Plain(), [torch.zeros(1, 3, 64, 64)], ckpt_path={file!r})
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "ArtifactError: Plain: the module of this checkpoint was operated in another way" in done.stderr
