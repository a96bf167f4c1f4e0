"""Names to models: what resolves, what is made, what is refused."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sesurgery.errors import InputError, ModelError, UnknownNameError
from sesurgery.models import libraries, zoo
from sesurgery.models.zoo import ModelSpec, create, resolve


@pytest.mark.parametrize(
    ("reference", "source", "name", "canonical"),
    [
        ("resnet50", "timm", "resnet50", "timm:resnet50"),
        (" resnet50 ", "timm", "resnet50", "timm:resnet50"),
        ("resnet50.a1_in1k", "timm", "resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("googlenet", "torchvision", "googlenet", "torchvision:googlenet"),
        ("timm:resnet18", "timm", "resnet18", "timm:resnet18"),
        ("torchvision:resnet18", "torchvision", "resnet18", "torchvision:resnet18"),
        ("nets/a.py:build", "file", "nets/a.py:build", "nets/a.py:build"),
        ("C:\\nets\\a.py:build", "file", "C:\\nets\\a.py:build", "C:\\nets\\a.py:build"),
        ("a.py:Net.small", "file", "a.py:Net.small", "a.py:Net.small"),
        ("pkg.nets:build", "import", "pkg.nets:build", "pkg.nets:build"),
    ],
)
def test_resolve(reference: str, source: str, name: str, canonical: str) -> None:
    spec = resolve(reference, {"a": 1})
    assert (spec.source, spec.name, spec.args, spec.reference) == (source, name, {"a": 1}, canonical)
    assert resolve(spec.reference, spec.args) == spec
    assert isinstance(hash(spec), int)


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("resnt50", UnknownNameError, ['unknown model "resnt50"', 'did you mean "resnet50"']),
        ("ResNet50", UnknownNameError, ['did you mean "resnet50']),
        ("googlenett", UnknownNameError, ['"googlenet"']),
        ("resnet50.no_such_tag", UnknownNameError, ['did you mean "resnet50']),
        ("qqqqqq", UnknownNameError, ["path/net.py:factory"]),
        ("timm:googlenet_x", UnknownNameError, ["unknown timm model"]),
        ("torchvision:resnet51", UnknownNameError, ["unknown torchvision model", '"resnet50"']),
        ("timm:hf-hub:timm/resnet18", UnknownNameError, ["unknown timm model"]),
        ("hf-hub:timm/resnet18", InputError, ["not accepted", "weights=..."]),
        ("hf_hub:timm/resnet18", InputError, ["not accepted", "weights=..."]),
        ("local-dir:/tmp/x", InputError, ["not accepted", "weights=..."]),
        ("", InputError, ["empty"]),
        ("net.py", InputError, ["no factory", "net.py:FACTORY"]),
        ("net.py:", InputError, ["package.module:factory"]),
        (":build", InputError, ["package.module:factory"]),
        ("some/folder", InputError, ["package.module:factory"]),
        ("a b:c", InputError, ["package.module:factory"]),
    ],
)
def test_resolve_refuses(reference: str, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        resolve(reference)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_list_names_holds_both_libraries() -> None:
    names = zoo.list_names()
    assert len(names["timm"]) > 1000
    assert len(names["torchvision"]) > 100
    assert names["timm"] == tuple(sorted(names["timm"]))
    assert all(zoo.is_timm_name(name) for name in names["timm"])
    assert not zoo.is_timm_name("../resnet50")


def test_importing_the_zoo_imports_neither_library() -> None:
    code = "import sys, sesurgery.models.zoo; sys.exit(any(m in sys.modules for m in ('timm', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("reference", ["resnet18", "torchvision:resnet18"])
def test_create_on_cpu(reference: str) -> None:
    model = create(resolve(reference, {"num_classes": 7}))
    assert not model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_creation_is_silent(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    create(resolve("torchvision:googlenet"), device="meta")
    assert capfd.readouterr().out == ""
    assert not recwarn.list


@pytest.mark.parametrize(
    ("reference", "args", "words"),
    [
        ("resnet18", {"num_clases": 3}, ['"num_clases"', 'did you mean "num_classes"', "timm:resnet18"]),
        ("torchvision:resnet18", {"num_clases": 3}, ['did you mean "num_classes"', "torchvision:resnet18"]),
        ("resnet18", {"num_classes": "ten"}, ["creating it failed", 'check model_args={"num_classes": "ten"}']),
        ("resnet18", {"checkpoint_path": "x.pth"}, ["checkpoint_path", "weights=..."]),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, ["would load weights", "pretrained=True"]),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}, ["would load weights"]),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_model_arguments(reference: str, args: dict[str, object], words: list[str], device: str) -> None:
    with pytest.raises(InputError) as caught:
        create(resolve(reference, args), device=device)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_spec_from_elsewhere_is_checked_again() -> None:
    with pytest.raises(UnknownNameError, match="resnet18"):
        create(ModelSpec("timm", "resnet18x"))


def test_pretrained_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(libraries, "build", offline)
    with pytest.raises(ModelError, match=r"timm:resnet18: downloading.*Network is unreachable.*weights=\.\.\."):
        create(resolve("resnet18"), pretrained=True)


@pytest.mark.parametrize("reference", ["timm:test_nothing", "torchvision:nothing"])
def test_pretrained_without_published_weights(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setattr(libraries, "is_timm_name", lambda name: True)
    monkeypatch.setattr(libraries, "is_torchvision_name", lambda name: True)
    monkeypatch.setattr(libraries, "_has_weights", lambda library, name: False)
    with pytest.raises(ModelError, match="publishes no pretrained weights"):
        create(resolve(reference), pretrained=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), ["do not belong together", "reinstall both"]),
        (RuntimeError("Couldn't load custom C++ ops."), ["do not belong together", "reinstall both"]),
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), ["pip install torchvision"]),
        (ImportError("broken"), ["importing it failed with ImportError: broken"]),
    ],
)
def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(libraries, "importlib", SimpleNamespace(import_module=fail))
    with pytest.raises(ModelError) as caught:
        resolve("resnet18")
    assert all(word in str(caught.value) for word in words), str(caught.value)
