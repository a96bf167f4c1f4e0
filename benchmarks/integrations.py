"""Ways in which layers can be lost in other tools, each tried with the real package: writes docs/integrations-tried.md.

    pip install -e '.[integrations]'                # and ultralytics (AGPL-3.0), onnx, onnxruntime
    python benchmarks/integrations.py               # all, resumes where it stopped
    python benchmarks/integrations.py --fresh --filter 'ultralytics:*'

Each runs in a process of its own, in an empty folder. It ends in a success, every layer alive, or in a message of ours
or of the tool; anything else is a loss, and fails, but for a known one whose row says why it cannot be noticed.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import machine
from runner import Row, Runner, main

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "integrations-tried.md"
TRIED: dict[str, Callable[[], str]] = {}
SMALL = {"imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False, "verbose": False, "epochs": 1}


class LostError(Exception):
    """Layers went without a word."""


def tried(package: str, way: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register what is tried, by the package that has to be installed and the words of the table."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        TRIED[f"{package}: {way}"] = function
        return function

    return register


def message(call: Callable[[], Any], words: str) -> str:
    """What is said where ``call`` raises or warns, and speaks of ``words``."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            call()
        except Exception as error:
            text = " ".join(str(error).split())
            if words not in text:
                raise
            return f"message: {text}"
    raise LostError("nothing was said")


def success(model: Any, count: int) -> str:
    """That all layers are there and called, and how many they are."""
    from sesurgery.integrations.operations import new_layers

    paths = new_layers(model)
    if len(paths) != count or not all(list(model.get_submodule(path).parameters()) for path in paths):
        raise LostError(f"{len(paths)} of {count} layers are left")
    return f"success: {count} layers"


# ultralytics


def _yolo(name: str = "yolov8n.yaml") -> Any:
    from ultralytics import YOLO

    return YOLO(name)


def _operated_yolo() -> Any:
    import sesurgery

    yolo = _yolo()
    yolo.model = sesurgery.apply(yolo.model, "standard", input_size="64").model
    return yolo


def _settings(task: str = "detect", **more: Any) -> dict[str, Any]:
    from pictures import make

    return {**SMALL, "data": make(Path.cwd() / task, task, count=4), "project": str(Path.cwd() / "runs"), **more}


def _se(task: str = "detect") -> Any:
    from ultralytics.models import yolo as tasks

    from sesurgery.integrations.ultralytics import trainer

    name = {"classify": "Classification", "detect": "Detection", "obb": "OBB", "segment": "Segmentation"}
    return trainer(getattr(getattr(tasks, task), f"{name.get(task, 'Pose')}Trainer"), "standard")


def _saved() -> str:
    _operated_yolo().save("best.pt")
    return "best.pt"


@tried("ultralytics", "`yolo.model = surgery.model; yolo.train()`")
def _plain_train() -> str:
    return message(lambda: _operated_yolo().train(**_settings()), "without the 6 edits")


@tried("ultralytics", "a part operated in place, then `yolo.train()`")
def _plain_train_of_a_part() -> str:
    import torch

    import sesurgery

    yolo = _yolo()
    sesurgery.apply(yolo.model.model[2], "standard", example_input=torch.zeros(1, 32, 16, 16), inplace=True)
    return message(lambda: yolo.train(**_settings()), "without the one edit")


@tried("ultralytics", "`yolo.model = surgery.model`, then our trainer without a recipe")
def _operated_in_place() -> str:
    from ultralytics.models.yolo.detect import DetectionTrainer

    from sesurgery.integrations.ultralytics import trainer

    yolo = _operated_yolo()
    yolo.train(trainer=trainer(DetectionTrainer), **_settings())
    return success(_yolo(str(yolo.trainer.best)).model, 6)


@tried("ultralytics", '`YOLO("best.pt").train()`, operated, with a plain trainer')
def _plain_train_further() -> str:
    return message(lambda: _yolo(_saved()).train(**_settings()), "without the 6 edits")


@tried("ultralytics", '`DetectionTrainer(overrides={"model": "best.pt"}).train()`')
def _plain_trainer() -> str:
    from ultralytics.models.yolo.detect import DetectionTrainer

    return message(lambda: DetectionTrainer(overrides=_settings(model=_saved())).train(), "without the 6 edits")


@tried("ultralytics", "`yolo detect train model=best.pt` on the command line")
def _command() -> str:
    settings = " ".join(f"{key}={value}" for key, value in _settings(model=_saved()).items())
    command = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()", "detect", "train"]
    done = subprocess.run([*command, *settings.split()], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "without the 6 edits" in line]
    if done.returncode == 0 or not lines:
        raise LostError(done.stderr[-200:])
    return f"message: {lines[-1]}"


@tried("ultralytics", '`YOLO("yolov8n.yaml").load("best.pt")`')
def _plain_load() -> str:
    return message(lambda: _yolo().load(_saved()), "without the 6 edits")


@tried("ultralytics", "`torch.load` of an operated `best.pt` where sesurgery is not installed")
def _absent() -> str:
    file = _saved()
    code = f"import sys; sys.modules['sesurgery'] = None; import torch; torch.load('{file}', weights_only=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    if "sesurgery" not in last:
        raise LostError(last)
    return f"message: {last} (an ejected model needs no sesurgery)"


def _trained(name: str, task: str) -> str:
    import onnx
    from ultralytics import YOLO

    from sesurgery.integrations.operations import new_layers

    settings = _settings(task)
    yolo = _yolo(name)
    yolo.train(trainer=_se(task), name="a", **settings)
    yolo = YOLO(yolo.trainer.best)
    paths = new_layers(yolo.model)
    text = success(yolo.model, len(paths))
    settings.pop("epochs")
    yolo.val(name="b", **settings)
    file = yolo.export(format="onnx", imgsz=64, simplify=False)
    taken = {given for node in onnx.load(file).graph.node for given in node.input}
    if not paths or not all(any(each.startswith(f"{path}.") for each in taken) for path in paths):
        raise LostError("layers are not in the ONNX file")
    return f"{text}, all of them in the ONNX file"


for _name, _task in (
    ("yolov5nu", "detect"),
    ("yolov8n", "detect"),
    ("yolo11n", "detect"),
    ("yolo12n", "detect"),
    ("yolov8n-seg", "segment"),
    ("yolo11n-seg", "segment"),
    ("yolov8n-pose", "pose"),
    ("yolo11n-pose", "pose"),
    ("yolov8n-obb", "obb"),
    ("yolo11n-obb", "obb"),
    ("yolov8n-cls", "classify"),
    ("yolo11n-cls", "classify"),
):
    tried("ultralytics", f"`{_name}.yaml` trained by our trainer, validated, exported")(
        lambda name=f"{_name}.yaml", task=_task: _trained(name, task)
    )


@tried("ultralytics", "our trainer on an operated `best.pt`")
def _further() -> str:
    yolo = _yolo(_saved())
    yolo.train(trainer=_se(), **_settings())
    return success(yolo.model, 6)


@tried("ultralytics", "`freeze=5`")
def _frozen() -> str:
    seen: list[int] = []
    yolo = _yolo()

    def look(training: Any) -> None:
        from sesurgery.integrations.operations import new_layers

        layers = [training.model.get_submodule(path) for path in new_layers(training.model)]
        seen.append(sum(all(each.requires_grad for each in layer.parameters()) for layer in layers))

    yolo.add_callback("on_train_start", look)
    yolo.train(trainer=_se(), freeze=5, **_settings())
    if seen != [6]:
        raise LostError(f"{seen} of 6 layers are trainable")
    return "success: 6 layers, all trainable"


# transformers


def _resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    return ResNetForImageClassification(ResNetConfig(**small)).eval()


def _operated_resnet() -> Any:
    import sesurgery

    return sesurgery.apply(_resnet(), "standard", input_size="64").model


@tried("transformers", "`save_pretrained`, then our `from_pretrained`")
def _pretrained() -> str:
    from sesurgery.integrations.transformers import from_pretrained

    _operated_resnet().save_pretrained("a")
    return success(from_pretrained("a"), 2)


@tried("transformers", "`save_pretrained`, then `ResNetForImageClassification.from_pretrained`")
def _plain_pretrained() -> str:
    model = _operated_resnet()
    model.save_pretrained("a")
    return message(lambda: type(model).from_pretrained("a"), "this model was operated")


@tried("transformers", "`save_pretrained`, then `AutoModelForImageClassification.from_pretrained`")
def _auto_pretrained() -> str:
    from transformers import AutoModelForImageClassification

    _operated_resnet().save_pretrained("a")
    return message(lambda: AutoModelForImageClassification.from_pretrained("a"), "this model was operated")


@tried("transformers", "`save_pretrained` of a model out of an operated wrapper")
def _unwrapped() -> str:
    import torch

    import sesurgery

    model = sesurgery.revert(_operated_resnet())
    sesurgery.apply(torch.nn.Sequential(model), "standard", input_size="64", inplace=True)
    return message(lambda: model.save_pretrained("a"), "a larger model, which held it")


@tried("transformers", "`Trainer` resumes into the plain model; layers without weights (`module=simam`)")
def _resumed() -> str:
    import torch
    import transformers

    import sesurgery

    plain = sesurgery.revert(_operated_resnet())
    data = [{"pixel_values": torch.rand(3, 64, 64), "labels": 0}]

    def training(model: Any, epochs: int) -> Any:
        options = {"save_strategy": "epoch", "report_to": [], "use_cpu": True, "disable_tqdm": True}
        arguments = transformers.TrainingArguments("out", num_train_epochs=epochs, **options)
        return transformers.Trainer(model, arguments, train_dataset=data)

    training(sesurgery.apply(plain, "standard", module="simam", input_size="64").model, 1).train()
    return message(lambda: training(plain, 2).train(resume_from_checkpoint=True), "operated in another way")


@tried("transformers", "ejected for the hub, then loaded without `trust_remote_code`")
def _hub() -> str:
    import sesurgery

    model = _operated_resnet()
    sesurgery.eject(model, "hub", hf=True)
    return message(lambda: type(model).from_pretrained("hub"), "this model was operated")


# Lightning, accelerate, peft


def _module(keeps: bool) -> Any:
    import lightning
    import timm

    from sesurgery.integrations.lightning import KeepsOperations

    class Classifier(*((KeepsOperations,) if keeps else ()), lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = timm.create_model("test_resnet", num_classes=3)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            import torch

            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Classifier


def _checkpoint(kind: Any, **options: Any) -> str:
    import lightning
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import sesurgery

    module = kind()
    sesurgery.apply(module.net, "standard", inplace=True, **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    training = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    training.fit(module, DataLoader(TensorDataset(torch.rand(2, 3, 64, 64))))
    training.save_checkpoint("last.ckpt")
    return "last.ckpt"


@tried("lightning", "operated after `__init__`, with `KeepsOperations`, then `load_from_checkpoint`")
def _kept() -> str:
    kind = _module(keeps=True)
    return success(kind.load_from_checkpoint(_checkpoint(kind)), 4)


@tried("lightning", "operated after `__init__`, without it, then `load_from_checkpoint`")
def _not_kept() -> str:
    kind = _module(keeps=False)
    file = _checkpoint(kind)
    return message(lambda: kind.load_from_checkpoint(file), "Unexpected key")[:200] + " ..."


@tried("lightning", "operated after `__init__`, without it, then `load_from_checkpoint(..., strict=False)`")
def _not_kept_not_strict() -> str:
    kind = _module(keeps=False)
    file = _checkpoint(kind)
    return message(lambda: kind.load_from_checkpoint(file, strict=False), "Found keys")[:200] + " ... (and ours)"


@tried("lightning", "layers without weights (`module=simam`), without it, then `load_from_checkpoint`")
def _weightless_not_kept() -> str:
    kind = _module(keeps=False)
    file = _checkpoint(kind, module="simam")
    return message(lambda: kind.load_from_checkpoint(file), "KeepsOperations")


_ELSEWHERE = """
import lightning, sys, timm, torch
class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model('test_resnet', num_classes=3)
    def predict_step(self, batch, index):
        return self.net(batch)
"""


def _elsewhere(code: str) -> Any:
    """Some code in a process that operates on nothing, and where the package is installed."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (info := Path("sesurgery-0.dist-info")).mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sesurgery\nVersion: 0\n")
    points = project["entry-points"].items()
    lines = [f"[{group}]\n{name} = {place}\n" for group, named in points for name, place in named.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    paths = [str(Path.cwd()), str(HERE.parent)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", _ELSEWHERE + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@tried("lightning", "layers without weights, `Trainer.predict(ckpt_path=...)` in a process that operates on nothing")
def _weightless_predicted_elsewhere() -> str:
    file = _checkpoint(_module(keeps=False), module="simam")
    quiet = "logger=False, enable_progress_bar=False, accelerator='cpu'"
    done = _elsewhere(
        f"import warnings; warnings.simplefilter('ignore')\ntrainer = lightning.Trainer({quiet})\n"
        f"trainer.predict(Classifier(), [torch.zeros(1, 3, 64, 64)], ckpt_path={file!r})"
    )
    if done.returncode == 0:
        raise LostError("nothing was said")
    return f"message: {done.stderr.strip().splitlines()[-1]}"


@tried("lightning", "layers without weights, loaded by a process that operates on nothing")
def _weightless_elsewhere() -> str:
    file = _checkpoint(_module(keeps=False), module="simam")
    done = _elsewhere(f"Classifier.load_from_checkpoint({file!r})\nassert 'sesurgery' not in sys.modules")
    if done.returncode == 0:
        return "known loss: the file holds tensors and names, and none of them is a layer's that has no weights"
    return f"message: {done.stderr.strip().splitlines()[-1]}"


@tried("accelerate", "`prepare`, a step, `unwrap_model`")
def _prepared() -> str:
    import accelerate
    import timm
    import torch

    import sesurgery

    model = sesurgery.apply(timm.create_model("test_resnet"), "standard").model
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(prepared(torch.rand(2, 3, 64, 64)).square().mean())
    optimizer.step()
    return success(accelerator.unwrap_model(prepared), 4)


@tried("accelerate", "`apply` on an offloaded model")
def _offloaded() -> str:
    import accelerate
    import timm
    import torch

    import sesurgery

    model = accelerate.cpu_offload(timm.create_model("test_resnet"), torch.device("cpu"))
    return message(lambda: sesurgery.apply(model, "standard", inplace=True), "offloaded by accelerate")


def _vit() -> Any:
    import timm

    import sesurgery

    return sesurgery.apply(timm.create_model("test_vit").eval(), "standard", input_size="160").model


@tried("peft", "LoRA on `fc1` with `config_for`, then `merge_and_unload`")
def _lora() -> str:
    from peft import LoraConfig, get_peft_model

    from sesurgery.integrations.peft import config_for

    model = _vit()
    adapted = get_peft_model(model, config_for(model, LoraConfig(target_modules=["fc1"])))
    free = [name for name, each in adapted.named_parameters() if each.requires_grad]
    if [name for name in free if ".se." in name and "lora" in name] or not [name for name in free if ".se." in name]:
        raise LostError("new layers are frozen or adapted")
    return success(adapted.merge_and_unload(), 12)


@tried("peft", "an adapter of an operated model loaded onto the plain one")
def _plain_base() -> str:
    import timm
    from peft import LoraConfig, PeftModel, get_peft_model

    from sesurgery.integrations.peft import config_for

    model = _vit()
    get_peft_model(model, config_for(model, LoraConfig(target_modules=["qkv"]))).save_pretrained("adapter")
    plain = timm.create_model("test_vit")
    text = message(lambda: PeftModel.from_pretrained(plain, "adapter"), "no modules were excluded")
    return f"{text.partition('{')[0]}{{...}}{text[-100:].partition('}')[2]}"


# timm and others


@tried("timm", "`save_for_hf` of what has no registered name, without weights (`module=simam`), then `create_model`")
def _saved_by_timm() -> str:
    import timm
    from timm.models import save_for_hf

    import sesurgery

    surgery = sesurgery.apply(timm.create_model("test_resnet"), "standard", module="simam")
    save_for_hf(surgery.model, "saved", safe_serialization=True)
    return message(lambda: timm.create_model("local-dir:saved", pretrained=True), "operated: register it")


@tried("timm", "`register`, then `create_model`, `ModelEmaV3`")
def _registered() -> str:
    import timm
    from timm.utils import ModelEmaV3

    import sesurgery

    sesurgery.register("resnet18_se4", base="resnet18", recipe="standard", stages="4")
    return success(ModelEmaV3(timm.create_model("resnet18_se4")).module, 2)


@tried("timm", "the weights of an operated model into `create_model(..., checkpoint_path=...)` of the plain one")
def _plain_checkpoint() -> str:
    import timm
    import torch

    import sesurgery

    torch.save(sesurgery.apply("resnet18", "standard").model.state_dict(), "a.pth")
    return message(lambda: timm.create_model("resnet18", checkpoint_path="a.pth"), "Unexpected key")[:200] + " ..."


@tried("segmentation_models_pytorch", "`save_pretrained`, then `from_pretrained`")
def _segmentation() -> str:
    import segmentation_models_pytorch as smp

    import sesurgery

    model = smp.create_model("unet", "resnet18", encoder_weights=None).eval()
    sesurgery.apply(model, "standard", input_size="64").model.save_pretrained("a")
    return message(lambda: smp.from_pretrained("a"), "Unexpected key")[:200] + " ..."


@tried("mmengine", "`load_checkpoint` of an operated model into a plain one")
def _mmengine() -> str:
    import logging

    import torch
    import torchvision
    from mmengine.runner import load_checkpoint

    import sesurgery

    plain = torchvision.models.resnet18(weights=None)
    torch.save(sesurgery.apply(plain, "standard").model.state_dict(), "a.pth")
    logging.disable(logging.NOTSET)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        load_checkpoint(plain, "a.pth")
    text = " ".join(said.getvalue().split())
    if "unexpected key" not in text:
        raise LostError("nothing was said")
    return f"message: {text[:200]} ..."


def names() -> list[str]:
    """All that can be tried with what is installed."""
    return [name for name in TRIED if find_spec(name.partition(":")[0])]


def examine(name: str) -> list[Row]:
    """One row: what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"YOLO_CONFIG_DIR": folder, "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
        os.environ.update({**settings, "HF_HUB_OFFLINE": "1"})
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result = TRIED[name]().replace(folder, "")
        except Exception as error:
            result = f"LOST: {type(error).__name__}: {error}"
        finally:
            os.chdir(HERE)
    return [{"model": name, "result": result}]


def write(rows: list[Row]) -> str:
    """docs/integrations-tried.md; returns its summary."""
    results = {row["model"]: row.get("result", row.get("crash", "")) for row in rows}
    counts = Counter(result.partition(":")[0] for result in results.values())
    known = f"{counts['known loss']} cannot be noticed from here" if counts["known loss"] else ""
    ends = [f"{counts['success']} succeed", f"{counts['message']} end in a message", *([known] if known else [])]
    summary = f"{', '.join(ends)}, {counts['LOST']} lose layers otherwise."
    lines = [
        "# What was tried in other tools",
        "",
        f"Generated by `python benchmarks/integrations.py`, on {machine()}.",
        "",
        "Each is a way in which inserted layers can be lost, or has to be known to work. Each was run with the real "
        "package. A success has all layers, with their weights; a message is an error or a warning, ours or the "
        f"tool's. {summary} How it is done: [integrations](integrations.md).",
        "",
        *_table(results),
    ]
    missing = [name for name in TRIED if name not in results]
    if missing:
        lines += ["", f"Without a result here: {len(missing)}, whose packages were not installed."]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return summary


def _table(results: dict[str, str]) -> Iterator[str]:
    yield "| tool | what was tried | what became of it |"
    yield "|---|---|---|"
    for name in TRIED:
        if name in results:
            package, _, way = name.partition(": ")
            yield f"| {package} {_version(package)} | {way} | {results[name].replace('|', '/')} |"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main(Runner(examine, HERE / "integrations.jsonl", alone=True), names, write, __doc__)
