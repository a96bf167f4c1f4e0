"""Operated YOLOs: trained, resumed, fine-tuned, validated and exported by ultralytics itself, every layer alive.

ultralytics is licensed under AGPL-3.0 and no dependency of this project, of its tests neither: ``pip install
ultralytics onnx onnxruntime`` has these tests run.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import lively
from pictures import make
from torch import nn

import sesurgery
from sesurgery.errors import InputError
from sesurgery.integrations.ultralytics import spared, trainer

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="sesurgery-ultralytics-"))
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
ultralytics = pytest.importorskip("ultralytics")
from ultralytics import YOLO  # noqa: E402
from ultralytics.models.yolo.classify import ClassificationTrainer  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.models.yolo.obb import OBBTrainer  # noqa: E402
from ultralytics.models.yolo.pose import PoseTrainer  # noqa: E402
from ultralytics.models.yolo.segment import SegmentationTrainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False, "verbose": False, "epochs": 1}
SE = trainer(DetectionTrainer, "standard", init="identity")

CASES = {
    "yolov5nu.yaml": ("detect", DetectionTrainer),
    "yolov8n.yaml": ("detect", DetectionTrainer),
    "yolo11n.yaml": ("detect", DetectionTrainer),
    "yolo12n.yaml": ("detect", DetectionTrainer),
    "yolov8n-seg.yaml": ("segment", SegmentationTrainer),
    "yolo11n-pose.yaml": ("pose", PoseTrainer),
    "yolov8n-obb.yaml": ("obb", OBBTrainer),
    "yolo11n-cls.yaml": ("classify", ClassificationTrainer),
}


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    def settings(task: str = "detect") -> dict[str, Any]:
        return {**SMALL, "data": make(tmp_path / task, task, count=4), "project": str(tmp_path / "runs")}

    return settings


def layers(model: Any) -> list[str]:
    """The inserted layers, each alive: with weights that are called for."""
    (plan,) = sesurgery.plans_of(model)
    paths = [edit.path for edit in plan.edits]
    assert all(list(model.get_submodule(path).parameters()) for path in paths)
    return paths


def plain(name: str = "yolov8n.yaml") -> nn.Module:
    torch.manual_seed(0)
    return lively(YOLO(name).model)


def alive_in_onnx(file: str, paths: list[str]) -> list[str]:
    """The layers some of whose weights a node of an ONNX file takes."""
    nodes = pytest.importorskip("onnx").load(file).graph.node
    given = {name for node in nodes for name in node.input}
    return [path for path in paths if any(name.startswith(f"{path}.") for name in given)]


def agrees(file: str, model: nn.Module, image: torch.Tensor) -> None:
    session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    with torch.no_grad():
        output = model.eval()(image)
    wanted = output[0] if isinstance(output, list | tuple) else output
    wanted = wanted[0] if isinstance(wanted, list | tuple) else wanted
    given_back = torch.from_numpy(session.run(None, {given.name: image.numpy()})[0])
    torch.testing.assert_close(given_back, wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_one_epoch_validation_and_onnx(name: str, small: Callable[[str], dict[str, Any]]) -> None:
    task, base = CASES[name]
    settings = small(task)
    YOLO(name).train(trainer=trainer(base, "standard"), name="a", **settings)
    best = Path(settings["project"]) / "a" / "weights" / "best.pt"
    yolo = YOLO(best)
    paths = layers(yolo.model)
    assert len(paths) >= 4
    settings.pop("epochs")
    assert yolo.val(name="b", **settings) is not None
    assert len(yolo.predict(torch.rand(1, 3, 64, 64), verbose=False)) == 1
    file = yolo.export(format="onnx", imgsz=64, simplify=False)
    assert alive_in_onnx(file, paths) == paths
    agrees(file, YOLO(best).model, torch.rand(1, 3, 64, 64))


def test_every_tensor_of_a_plain_checkpoint_is_carried_over(small: Callable[[str], dict[str, Any]]) -> None:
    weights = plain()
    settings = small("detect")
    given = SE(overrides={**settings, "model": "yolov8n.yaml"})
    given.data["nc"], given.data["names"] = 80, weights.names
    model = given.get_model(weights.yaml, weights, verbose=False)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.state_dict().items())
    assert len(state) == len(weights.state_dict()) + 4 * len(layers(model))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(image)[0], weights.eval()(image)[0])
        assert torch.equal(model.fuse(verbose=False)(image)[0], weights.fuse(verbose=False)(image)[0])


def test_fused_the_layers_are_called(small: Callable[[str], dict[str, Any]]) -> None:
    model = lively(sesurgery.apply(plain(), "standard", input_size="64").model)
    called: list[str] = []
    for path in layers(model):
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: called.append(path))
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        wanted = model.eval()(image)[0]
        called.clear()
        torch.testing.assert_close(model.fuse(verbose=False)(image)[0], wanted, rtol=1e-3, atol=1e-2)
    assert sorted(called) == sorted(layers(model))


def test_a_training_that_broke_off_is_resumed(small: Callable[[str], dict[str, Any]]) -> None:
    settings = {**small("detect"), "epochs": 2, "name": "a"}
    yolo = YOLO("yolov8n.yaml")

    def stop(training: Any) -> None:
        raise KeyboardInterrupt

    yolo.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(trainer=SE, **settings)
    last = Path(settings["project"]) / "a" / "weights" / "last.pt"
    again = YOLO(last)
    saved = {key: value.clone() for key, value in again.model.state_dict().items()}
    assert again.ckpt["epoch"] == 0
    seen: list[Any] = []

    def look(training: Any) -> None:
        state = copy.deepcopy(training.ema.ema.state_dict())
        seen.append((training.start_epoch, state, layers(training.model)))

    again.add_callback("on_pretrain_routine_end", look)
    again.train(trainer=SE, resume=True)
    ((epoch, state, paths),) = seen
    assert epoch == 1
    assert all(torch.equal(state[key], value) for key, value in saved.items())
    assert layers(again.model) == paths != []


def test_an_operated_checkpoint_is_trained_further(small: Callable[[str], dict[str, Any]]) -> None:
    settings = small("detect")
    yolo = YOLO("yolov8n.yaml")
    yolo.train(trainer=SE, name="a", **settings)
    best = Path(settings["project"]) / "a" / "weights" / "best.pt"
    with torch.no_grad():
        for path in layers(yolo.model):
            yolo.model.get_submodule(path).fc2.weight.fill_(0.25)
    yolo.save(best)
    wanted = {key: value.clone() for key, value in YOLO(best).model.state_dict().items()}
    for kind in (SE, trainer(DetectionTrainer)):
        given = kind(overrides={**settings, "model": str(best)})
        given.setup_model()
        state = given.model.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[key], value) for key, value in wanted.items())
    with pytest.raises(InputError, match=r"another recipe \(standard\)"):
        trainer(DetectionTrainer, "concat")(overrides={**settings, "model": str(best)}).setup_model()
    YOLO(best).train(trainer=SE, name="b", **settings)


def test_what_would_build_the_network_anew_speaks_up(small: Callable[[str], dict[str, Any]]) -> None:
    settings = small("detect")
    yolo = YOLO("yolov8n.yaml")
    yolo.model = sesurgery.apply(yolo.model, "standard", input_size="64").model
    lost = "without the 6 edits of the operation; train with trainer=sesurgery.integrations.ultralytics.trainer"
    with pytest.raises(InputError, match=lost):
        yolo.train(**settings)
    file = Path(settings["project"]) / "a.pt"
    file.parent.mkdir(exist_ok=True)
    yolo.save(file)
    with pytest.raises(InputError, match=lost):
        YOLO(file).train(**settings)
    with pytest.raises(InputError, match=lost):
        DetectionTrainer(overrides={**settings, "model": str(file)}).train()
    with pytest.raises(InputError, match=lost):
        YOLO("yolov8n.yaml").load(file)

    class Mine(DetectionTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            return sesurgery.apply(super().get_model(cfg, None, verbose), "standard", input_size="64").model

    yolo.train(trainer=Mine, **settings)
    assert len(layers(yolo.model)) == 6


def part_of_a_yolo() -> Any:
    yolo = YOLO("yolov8n.yaml")
    sesurgery.apply(yolo.model.model[2], "standard", example_input=torch.zeros(1, 32, 16, 16), inplace=True)
    return yolo


def test_a_part_that_was_operated_is_not_lost_and_is_trained(small: Callable[[str], dict[str, Any]]) -> None:
    settings = small("detect")
    yolo = part_of_a_yolo()
    with pytest.raises(InputError, match="without the one edit of the operation"):
        yolo.train(**settings)
    yolo.train(trainer=trainer(DetectionTrainer), freeze=5, **settings)
    best = YOLO(yolo.trainer.best)
    assert [edit.path for edit in sesurgery.plans_of(best.model.model[2])[0].edits] == ["m.0.se"]
    assert all(each.requires_grad for each in yolo.trainer.model.model[2].m[0].se.parameters())


def test_a_model_that_was_operated_in_place_of_a_file_is_trained_as_it_is(
    small: Callable[[str], dict[str, Any]],
) -> None:
    settings = small("detect")
    yolo = YOLO("yolov8n.yaml")
    yolo.model = lively(sesurgery.apply(yolo.model, "standard", input_size="64").model)
    (path, *_) = layers(yolo.model)
    wanted = yolo.model.get_submodule(path).fc1.weight.clone()
    with pytest.raises(InputError, match=r"operated by another recipe \(standard\)"):
        yolo.train(trainer=trainer(DetectionTrainer, "concat"), **settings)
    seen: list[torch.Tensor] = []

    def look(training: Any) -> None:
        seen.append(training.model.get_submodule(path).fc1.weight.clone())

    yolo.add_callback("on_train_start", look)
    yolo.train(trainer=trainer(DetectionTrainer), **settings)
    assert torch.equal(seen[0], wanted)


def test_bad_input(small: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="no trainer of ultralytics"):
        trainer(YOLO, "standard")
    with pytest.raises(InputError, match="is a trainer that operates already"):
        trainer(SE, "concat")
    with pytest.raises(sesurgery.errors.ModelError, match=r"give the network that it holds: model\.model"):
        sesurgery.apply(YOLO("yolov8n.yaml"), "standard", input_size="64")
    with pytest.raises(InputError, match="go with a recipe"):
        trainer(DetectionTrainer, stages="4")
    with pytest.raises(InputError, match="did you mean"):
        trainer(DetectionTrainer, "standart")
    with pytest.raises(InputError, match="what to operate"):
        YOLO("yolov8n.yaml").train(trainer=trainer(DetectionTrainer), **small("detect"))


def test_a_trained_model_is_saved_and_ejected(small: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    yolo = YOLO("yolov8n.yaml")
    yolo.train(trainer=SE, **small("detect"))
    model, image = yolo.model.eval(), torch.rand(1, 3, 64, 64)
    sesurgery.save(model, tmp_path / "saved")
    with torch.no_grad():
        wanted = model(image)[0]
        assert torch.equal(sesurgery.load(tmp_path / "saved", trust_code=True)(image)[0], wanted)
        folder = sesurgery.eject(model, tmp_path / "ejected", example_input=image)
    text = (folder / "model.py").read_text()
    assert "sesurgery." not in text
    assert "def build(pretrained: bool = True)" in text


def test_frozen_parts_leave_new_layers_trainable(small: Callable[[str], dict[str, Any]]) -> None:
    settings = small("detect")
    seen: list[Any] = []
    yolo = YOLO("yolov8n.yaml")
    yolo.add_callback("on_train_batch_start", lambda training: seen.append(training.model))
    yolo.train(trainer=SE, freeze=5, **settings)
    model = seen[0]
    new = tuple(f"{path}." for path in layers(model))
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    inside = {name for name, _ in model.named_parameters() if int(name.split(".")[1]) < 5}
    assert frozen == {name for name in inside if not name.startswith(new)} | {"model.22.dfl.conv.weight"}
    assert any(name.startswith(new) for name in inside)


def test_norms_and_weights_beside_a_new_layer_are_frozen() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.gamma = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.bn(self.conv(x)) * self.gamma

    body = nn.Module()
    body.model = nn.Sequential(Host(), Host())
    body.forward = lambda x: body.model(x)
    body = sesurgery.apply(body, "standard", example_input=torch.zeros(1, 8, 8, 8), inplace=True).model
    (first, _) = [edit.path for edit in sesurgery.plans_of(body)[0].edits]
    freeze, partly = spared(body, 1)
    assert freeze == ["0.conv", "0.bn"]
    assert [id(each) for each in partly] == [id(body.model[0])]
    assert first == "model.0.se"
    assert spared(body, 0) == (0, ())


def test_workers_on_other_gpus_get_the_trainer(tmp_path: Path) -> None:
    """ultralytics pickles the class with cloudpickle; a worker reads it with pickle alone."""
    torch.save(SE, tmp_path / "trainer.pt", pickle_module=pytest.importorskip("cloudpickle"))
    again = torch.load(tmp_path / "trainer.pt", weights_only=False)
    assert issubclass(again, DetectionTrainer)
    assert again.wanted == SE.wanted
