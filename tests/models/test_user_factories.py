"""Factories of a user's own: in a file, in a module, and everything that can be wrong with one."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from sesurgery.errors import InputError, ModelError
from sesurgery.models.zoo import create, example_input, resolve

WriteNet = Callable[..., Path]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_factory_in_a_file(write_net: WriteNet, device: str) -> None:
    spec = resolve(f"{write_net()}:net", {"width": 4})
    model = create(spec, device=device)
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {device}
    assert model.stem.out_channels == 4
    assert [tuple(image.shape) for image in example_input(model, spec, device=device)] == [(1, 3, 224, 224)]
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
        ("build_net", {}, ["needs width", 'model_args={"width": VALUE}']),
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
    with pytest.raises(InputError, match=r"weights=\.\.\."):
        create(resolve(f"{write_net()}:net"), pretrained=True)
