"""Names to models, and models to inputs."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sesurgery
from sesurgery.cli.app import app
from sesurgery.errors import InputError, ModelError, UnknownNameError
from sesurgery.models import libraries, zoo
from sesurgery.models.input_size import read_input_size
from sesurgery.models.zoo import ModelSpec, candidate_inputs, create, example_input, resolve

WriteNet = Callable[..., Path]


def shapes(args: tuple[object, ...]) -> list[object]:
    return [tuple(a.shape) if isinstance(a, torch.Tensor) else [tuple(t.shape) for t in a] for a in args]  # type: ignore[attr-defined]


def first_that_runs(model: nn.Module, spec: ModelSpec | None = None) -> list[object]:
    for args in candidate_inputs(model, spec, device="cpu"):
        try:
            with torch.no_grad():
                model.eval()(*args)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            continue
        return shapes(args)
    raise AssertionError("no candidate runs")


# --- names ------------------------------------------------------------------------------------------------------------


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
        ("hf-hub:timm/resnet18", InputError, ["not accepted", "--weights"]),
        ("hf_hub:timm/resnet18", InputError, ["not accepted", "--weights"]),
        ("local-dir:/tmp/x", InputError, ["not accepted", "--weights"]),
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


# --- making models of the libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["resnet18", "torchvision:resnet18"])
def test_create_on_cpu(reference: str) -> None:
    model = create(resolve(reference, {"num_classes": 7}))
    assert not model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("reference", "size"),
    [
        ("resnet18", (3, 224, 224)),
        ("vit_tiny_patch16_384", (3, 384, 384)),
        ("swinv2_tiny_window8_256", (3, 256, 256)),
        ("mobilevit_xxs", (3, 256, 256)),
        ("tresnet_m", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:googlenet", (3, 224, 224)),
        ("torchvision:regnet_y_400mf", (3, 224, 224)),
        ("torchvision:vit_b_16", (3, 224, 224)),
        ("torchvision:swin_v2_t", (3, 256, 256)),
        ("torchvision:lraspp_mobilenet_v3_large", (3, 224, 224)),
        ("torchvision:quantized_mobilenet_v2", (3, 224, 224)),
        ("torchvision:r3d_18", (3, 16, 112, 112)),
        ("torchvision:s3d", (3, 16, 224, 224)),
    ],
)
def test_meta_models_run_on_their_first_input(reference: str, size: tuple[int, ...]) -> None:
    spec = resolve(reference)
    model = create(spec, device="meta", pretrained=True)
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    args = example_input(model, spec)
    assert shapes(args) == [(1, *size)]
    model(*args)


def test_optical_flow_takes_two_images() -> None:
    spec = resolve("torchvision:raft_small")
    args = example_input(create(spec, device="meta"), spec)
    assert shapes(args) == [(1, 3, 224, 224)] * 2


def test_detection_takes_a_list_of_images() -> None:
    spec = resolve("torchvision:ssdlite320_mobilenet_v3_large")
    model = create(spec)
    args = example_input(model, spec, device="cpu")
    assert shapes(args) == [[(3, 320, 320)]]
    assert set(model(*args)[0]) == {"boxes", "scores", "labels"}
    assert shapes(example_input(model, spec, (3, 64, 96))) == [[(3, 64, 96)]]


@pytest.mark.parametrize(
    ("reference", "args", "size"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96}, (3, 96, 96)),
        ("vit_tiny_patch16_224", {"img_size": [64, 96], "in_chans": 1}, (1, 64, 96)),
        ("resnet18", {"in_chans": 5}, (5, 224, 224)),
    ],
)
def test_inputs_follow_the_model_arguments(reference: str, args: dict[str, object], size: tuple[int, ...]) -> None:
    spec = resolve(reference, args)
    model = create(spec, device="meta")
    for known in (spec, None):
        given = example_input(model, known)
        assert shapes(given) == [(1, *size)]
        model(*given)


def test_creation_is_silent(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    create(resolve("torchvision:googlenet"), device="meta")
    assert capfd.readouterr().out == ""
    assert not recwarn.list


@pytest.mark.parametrize(
    ("reference", "args", "words"),
    [
        ("resnet18", {"num_clases": 3}, ['"num_clases"', 'did you mean "num_classes"', "timm:resnet18"]),
        ("torchvision:resnet18", {"num_clases": 3}, ['did you mean "num_classes"', "torchvision:resnet18"]),
        ("resnet18", {"num_classes": "ten"}, ["creating it failed", "--model-arg num_classes=ten"]),
        ("resnet18", {"checkpoint_path": "x.pth"}, ["checkpoint_path", "--weights"]),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, ["would load weights", "--pretrained"]),
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
    with pytest.raises(ModelError, match=r"timm:resnet18: downloading.*Network is unreachable.*--weights FILE"):
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


# --- factories of a user's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_factory_in_a_file(write_net: WriteNet, device: str) -> None:
    spec = resolve(f"{write_net()}:net", {"width": 4})
    model = create(spec, device=device)
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {device}
    assert model.stem.out_channels == 4
    assert shapes(example_input(model, spec, device=device)) == [(1, 3, 224, 224)]
    module = inspect.getmodule(type(model))
    assert module is not None
    assert module.SCALE.device.type == "cpu"


def test_models_of_a_file_pickle_and_share_their_class(write_net: WriteNet) -> None:
    spec = resolve(f"{write_net()}:net")
    model, other = create(spec), create(spec)
    assert type(model) is type(other)
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    assert "class Net" in inspect.getsource(type(model))
    copy.deepcopy(model)


def test_an_edited_file_is_imported_anew(write_net: WriteNet) -> None:
    path = write_net()
    create(resolve(f"{path}:net"))
    path.write_text(path.read_text().replace("10)", "11)"))
    assert create(resolve(f"{path}:net")).fc.out_features == 11


def test_a_file_imports_its_neighbours(write_net: WriteNet) -> None:
    write_net(name="neighbour_of_net.py")
    path = write_net("from neighbour_of_net import Net\ndef net():\n    return Net()\n")
    before = list(sys.path)
    assert isinstance(create(resolve(f"{path}:net")), nn.Module)
    assert sys.path == before


def test_a_factory_in_a_module(write_net: WriteNet, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_net(name="net_of_a_module.py")
    monkeypatch.chdir(path.parent)
    assert create(resolve("net_of_a_module:Net", {"depth": 1})).fc.out_features == 10
    assert importlib.import_module("net_of_a_module").Net is type(create(resolve("net_of_a_module:net")))


def test_a_factory_that_reads_values_ends_up_on_meta(write_net: WriteNet) -> None:
    source = """
import torch
from torch import nn
def net():
    model = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in torch.arange(3).tolist()])
    model[1].weight = model[0].weight
    model[1].bias = model[0].bias = nn.Parameter(torch.ones(4))
    model.register_buffer("steps", torch.linspace(0, 1, 3))
    return model
def stubborn():
    weight = torch.empty(3).fill_(2.0)
    return nn.Linear(int(weight.sum().item()), 1)
"""
    path = write_net(source)
    model = create(resolve(f"{path}:net"), device="meta")
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert model[0].weight is model[1].weight
    assert model[0].bias is model[1].bias
    assert len(list(model.parameters())) == 3
    assert create(resolve(f"{path}:stubborn"), device="meta").weight.shape == (1, 6)


def test_what_a_factory_prints_stays_off_stdout(write_net: WriteNet, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_net("from torch import nn\ndef net():\n    print('hello')\n    return nn.Linear(1, 1)\n")
    create(resolve(f"{path}:net"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


BAD_FACTORIES = """
import sys
from torch import nn
number = 3
built = nn.Linear(1, 1)
def build_net(width, *, depth=1):
    return nn.Linear(width, depth)
def fails():
    raise ValueError("no such width\\nsecond line")
def leaves():
    sys.exit(3)
def nothing():
    pass
"""


@pytest.mark.parametrize(
    ("factory", "args", "words"),
    [
        ("biuld_net", {}, ['has no "biuld_net"', 'did you mean "build_net"']),
        ("zzz", {}, ['it holds "build_net"']),
        ("number", {}, ["not callable", "int"]),
        ("built", {}, ["exists already", "function or class"]),
        ("fails", {}, ["ValueError: no such width (line 9)"]),
        ("leaves", {}, ["SystemExit: 3"]),
        ("nothing", {}, ["returned NoneType, not an nn.Module"]),
        ("build_net", {}, ["needs width", "--model-arg width=VALUE"]),
        ("build_net", {"width": 2, "dept": 2}, ['model argument "dept"', 'did you mean "depth"']),
        ("nothing", {"x": 2}, ['model argument "x"', "takes no arguments"]),
        ("build_net", {"width": "a"}, ["the factory failed with TypeError"]),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_factories(
    write_net: WriteNet, factory: str, args: dict[str, object], words: list[str], device: str
) -> None:
    path = write_net(BAD_FACTORIES)
    with pytest.raises(InputError) as caught:
        create(resolve(f"{path}:{factory}", args), device=device)
    message = str(caught.value)
    assert all(word in message for word in (*words, "net.py")), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def net(:\n", ["importing it failed with SyntaxError", "line 1"]),
        ("import no_such_module_at_all\n", ["ModuleNotFoundError", "no_such_module_at_all", "line 1"]),
        ("\nraise SystemExit('bye')\n", ["SystemExit: bye", "line 2"]),
        ("\0", ["importing it failed"]),
    ],
)
def test_files_that_cannot_be_imported(write_net: WriteNet, source: str, words: list[str]) -> None:
    path = write_net(source)
    known = set(sys.modules)
    with pytest.raises(ModelError) as caught:
        create(resolve(f"{path}:net"))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not {name for name in set(sys.modules) - known if "sesurgery_file" in name}


def test_missing_files_and_modules(write_net: WriteNet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_net().parent
    monkeypatch.chdir(folder)
    (folder / "broken_net.py").write_text("1 / 0\n")
    for reference, words in [
        ("ne.py:net", 'no such file; did you mean "net.py"'),
        ("nowhere/zzz.py:net", "no such file; check the path"),
        ("./folder.py:net", "is a folder"),
        ("no_such_package.nets:net", 'no module named "no_such_package"'),
        ("broken_net:net", "importing it failed with ZeroDivisionError"),
    ]:
        (folder / "folder.py").mkdir(exist_ok=True)
        with pytest.raises(ModelError) as caught:
            create(resolve(reference))
        assert words in str(caught.value)


def test_a_factory_has_no_pretrained_weights(write_net: WriteNet) -> None:
    with pytest.raises(InputError, match="--weights FILE"):
        create(resolve(f"{write_net()}:net"), pretrained=True)


# --- inputs -----------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layer(left) + self.layer(right) * scale


class HeadFirst(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 28 * 28, 10)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Conv2d(5, 2, 3), nn.ReLU()), [(1, 5, 224, 224)]),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 62 * 62, 3)), [(1, 1, 64, 64)]),
        (nn.Sequential(nn.Conv3d(2, 2, 3)), [(1, 2, 16, 112, 112)]),
        (nn.Sequential(nn.Conv1d(6, 2, 3)), [(1, 6, 256)]),
        (nn.Sequential(nn.Linear(12, 4)), [(1, 12)]),
        (nn.Sequential(nn.Linear(12, 4), nn.LayerNorm((16, 4))), [(1, 16, 12)]),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), [(1, 16)]),
        (nn.ReLU(), [(1, 3, 224, 224)]),
        (Two(), [(1, 3, 224, 224)] * 2),
        (HeadFirst(), [(1, 1, 28, 28)]),
    ],
)
def test_inputs_of_modules_of_ones_own(model: nn.Module, expected: list[object]) -> None:
    assert first_that_runs(model) == expected


def test_inputs_have_the_models_dtype_and_leave_the_random_state() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3)).double()
    state = torch.get_rng_state()
    (first,), (again,) = example_input(model, device="cpu"), example_input(model, device="cpu")
    assert first.dtype == torch.float64
    assert torch.equal(first, again)
    assert first.std() > 0
    assert torch.equal(torch.get_rng_state(), state)
    (tokens,) = example_input(nn.Embedding(3, 3))
    assert tokens.dtype == torch.long
    assert tokens.is_meta


def test_a_given_size_is_the_only_candidate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    assert [shapes(args) for args in candidate_inputs(model, None, (3, 40, 48))] == [[(1, 3, 40, 48)]]
    (tokens,) = example_input(nn.Embedding(3, 3), None, (7,))
    assert (tokens.shape, tokens.dtype) == ((1, 7), torch.long)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("3,224,224", (3, 224, 224)),
        (" 3, 64 ,64 ", (3, 64, 64)),
        ("3x16x112x112", (3, 16, 112, 112)),
        ("192,256", (3, 192, 256)),
        ("7", (3, 7, 7)),
        ((7,), (7,)),
        ([3, 224], (3, 224)),
    ],
)
def test_input_sizes_as_people_write_them(given: str | tuple[int, ...], size: tuple[int, ...]) -> None:
    assert read_input_size(given) == size


def test_an_input_size_means_the_same_in_python_and_on_the_command_line() -> None:
    plan = sesurgery.plan("resnet18", "standard", input_size="224")
    assert plan.before == sesurgery.plan("resnet18", "standard", input_size=(3, 224, 224)).before
    result = CliRunner().invoke(app, ["preview", "resnet18", "--recipe", "standard", "--input-size", "224", "--json"])
    assert plan.before is not None
    assert json.loads(result.stdout)["before"]["macs"] == plan.before.macs
    wanted = "3 is no height; write C,H,W such as 3,224,224, or H,W such as 192,256"
    with pytest.raises(InputError, match=wanted):
        sesurgery.plan("resnet18", "standard", input_size="3,224")
    refused = CliRunner().invoke(app, ["preview", "resnet18", "--recipe", "standard", "--input-size", "3,224"])
    assert refused.exit_code == 2
    assert f"--input-size 3,224: two numbers are height and width, and {wanted}" in refused.stderr


@pytest.mark.parametrize(
    "text",
    ["", ",", "3,,224", "3,0,224", "3,-1,224", "3,224", "a", "3,2.5", "nan", "1e3", "²", "100000,100000", "9" * 5000],
)
def test_bad_input_sizes(text: str) -> None:
    with pytest.raises(InputError, match="such as 3,224,224"):
        read_input_size(text)


@pytest.mark.parametrize("size", [(), (3, 0), (3, -1), (10**6, 10**6), (3.0, 2)])
def test_bad_input_sizes_as_numbers(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="such as 3,224,224"):
        example_input(nn.ReLU(), None, size)
