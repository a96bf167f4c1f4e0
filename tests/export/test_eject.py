"""Ejected models: the same keys and every bit of the output, where sesurgery cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import SOURCE, TINY, Net, Short, lively
from places import ROOT
from torch import nn

import sesurgery
from sesurgery.errors import ArtifactError, InputError, ModelError
from sesurgery.export.names import Names

# Runs check.py of each folder, one after the other, in one process that has no sesurgery.
CHECKER = """
import runpy, sys
sys.modules["sesurgery"] = None
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    sys.argv = sys.argv[:1]
    for name in ("model", "net"):
        sys.modules.pop(name, None)
    try:
        runpy.run_path(folder + "/check.py", run_name="__main__")
    except SystemExit as end:
        if end.code:
            print(end.code)
    sys.path.remove(folder)
"""

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "sockets": (TINY, "standard", {}),
    "methods": (TINY, "se-3x3", {}),
    "own layers": ("timm:test_vit", "standard", {"input_size": "160"}),
    "swapped": ("timm:test_efficientnet", "swap-attention", {}),
    "kernels": ("timm:test_efficientnet", "shufflenet-k5", {}),
    "csp": ("timm:mobilenetv2_035", "shufflenet-csp", {"input_size": "64"}),
    "sk": ("torchvision:shufflenet_v2_x0_5", "shufflenet-sk", {"input_size": "64"}),
    "behind": ("torchvision:squeezenet1_1", "plain", {"input_size": "64"}),
    "ge": (TINY, "standard", {"module": "ge"}),
}

SUPER = """
FACTOR = 2.0


class Above(Net):
    def forward(self, x):
        \"\"\"Doubles
  what it shows.\"\"\"
        return super().forward(x) * 2


class Hidden(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.__conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: "torch.Tensor"):
        y = self.__conv(x) * FACTOR
        return x + y


def hidden():
    model = Above(8, 1)
    model.blocks = nn.Sequential(Block(8), Hidden(8))
    return model
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, str]]:
    """Every case, ejected, with what its check printed."""
    home = tmp_path_factory.mktemp("ejected")
    for name, (model, recipe, options) in CASES.items():
        surgery = sesurgery.apply(model, recipe, **options)
        lively(surgery.model)
        sesurgery.eject(surgery, home / name)
    (home / "net.py").write_text(SOURCE + SUPER)
    user = sesurgery.apply(f"{home / 'net.py'}:hidden", "pre", input_size="32")
    sesurgery.eject(user, home / "a file")
    folders = [home / name for name in (*CASES, "a file")]
    command = [sys.executable, "-c", CHECKER, *map(str, folders)]
    done = subprocess.run(command, cwd="/", env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: (path, line) for path, line in zip(folders, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", [*CASES, "a file"])
def test_an_ejected_model_is_the_operated_one_bit_for_bit(checked: Mapping[str, tuple[Path, str]], name: str) -> None:
    folder, line = checked[name]
    assert line.startswith("equal: ")
    assert line.endswith("every bit")
    assert "import sesurgery" not in (folder / "model.py").read_text()
    assert "from sesurgery" not in (folder / "model.py").read_text()
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_ejected_code_passes_ruff(checked: Mapping[str, tuple[Path, str]]) -> None:
    command = ["ruff", "check", *(str(folder) for folder, _ in checked.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_equal_hosts_share_one_class_in_the_authors_words(checked: Mapping[str, tuple[Path, str]]) -> None:
    text = (checked["methods"][0] / "model.py").read_text()
    assert [line for line in text.splitlines() if line.startswith("class ")] == [
        "class BasicBlockWithSeConvAndSe(BasicBlock):",
        "class BottleneckWithSeConv(Bottleneck):",
    ]
    assert "x = self.se_conv(self.act1(x))" in text


def test_what_a_methods_place_says_is_written_out(checked: Mapping[str, tuple[Path, str]]) -> None:
    text = (checked["a file"][0] / "model.py").read_text()
    assert "from net import FACTOR, Block, Hidden, hidden" in text
    assert "self._Hidden__conv" in text


def test_new_weights_start_as_the_layer_does(tmp_path: Path) -> None:
    surgery = sesurgery.apply(TINY, "standard", init="identity")
    folder = sesurgery.eject(surgery, tmp_path / "a")
    scope: dict[str, Any] = {"__file__": str(folder / "model.py"), "__name__": "ejected"}
    exec((folder / "model.py").read_text(), scope)
    fresh = scope["build"](pretrained=False)
    assert not any(tensor.any() for name, tensor in fresh.state_dict().items() if ".se.fc2" in name)
    assert any(tensor.any() for name, tensor in fresh.state_dict().items() if ".se.fc1" in name)


def test_an_instance_is_given_to_build(tmp_path: Path) -> None:
    surgery = sesurgery.apply(Net(Short()), "standard", example_input=torch.zeros(1, 3, 32, 32))
    folder = sesurgery.eject(surgery, tmp_path / "a")
    assert "def build(base: nn.Module, pretrained: bool = True)" in (folder / "model.py").read_text()
    (tmp_path / "made.py").write_text("from networks import Net, Short\n\n\ndef make():\n    return Net(Short())\n")
    paths = f"{tmp_path}:{ROOT / 'tests' / 'support'}"
    command = [sys.executable, str(folder / "check.py"), "made:make"]
    done = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("equal: "), done.stderr
    done = subprocess.run(command[:2], env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("usage: python check.py package.module:factory")


def test_a_graph_module_takes_its_calls(tmp_path: Path) -> None:
    traced = torch.fx.symbolic_trace(Net(Short(), Short()))
    surgery = sesurgery.apply(traced, "standard", example_input=torch.zeros(1, 3, 32, 32), inplace=True)
    assert {edit.route for edit in surgery.plan.edits} == {"graph"}
    folder = sesurgery.eject(surgery, tmp_path / "a")
    assert 'call_in_graphs(host, "se"' in (folder / "model.py").read_text()


def test_the_hub_loads_one_file_of_code(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    surgery = sesurgery.apply(TINY, "se-3x3")
    lively(surgery.model)
    folder = sesurgery.eject(surgery, tmp_path / "hub", hf=True)
    assert len(list(folder.glob("*.py"))) == 2  # model.py, and check.py that proves it
    image = torch.randn(2, 3, 64, 64)
    torch.save((image, surgery.model(image).detach(), surgery.model.state_dict()), tmp_path / "known.pt")
    code = (
        "import sys, torch; sys.modules['sesurgery'] = None; from transformers import AutoModel;"
        "model = AutoModel.from_pretrained('hub', trust_remote_code=True); model.save_pretrained('again');"
        "again = AutoModel.from_pretrained('again', trust_remote_code=True);"
        "image, wanted, state = torch.load('known.pt');"
        "states = [each.model.state_dict() for each in (model, again)];"
        "print(all(torch.equal(each[key], state[key]) for each in states for key in state),"
        # Weights that lie elsewhere in memory may be summed in another order.
        "*(torch.allclose(each.eval()(image), wanted, atol=1e-6) for each in (model, again)))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["True True True"], done.stderr


def test_for_the_hub_code_of_ones_own_is_refused(tmp_path: Path) -> None:
    surgery = sesurgery.apply(Net(Short()), "standard", example_input=torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"need transformers|holds no code of your own"):
        sesurgery.eject(surgery, tmp_path / "a", hf=True)
    assert list(tmp_path.iterdir()) == []


def local_class() -> nn.Module:
    scale = 2

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv(x) * scale

    return Net(Local())


def test_what_cannot_be_written_elsewhere_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    surgery = sesurgery.apply(local_class(), "pre", example_input=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ModelError, match=r"blocks\.0.*Local.*closes over scale"):
        sesurgery.eject(surgery, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no operation has changed"):
        sesurgery.eject(Net(Short()), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    surgery = sesurgery.apply(TINY, "standard")
    with pytest.raises(ArtifactError, match="holds files already"):
        sesurgery.eject(surgery, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_command_takes_a_folder_or_a_model_with_a_recipe(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sesurgery.cli.app import app

    def run(*args: object) -> Any:
        return CliRunner().invoke(app, [str(arg) for arg in args], standalone_mode=False)

    assert run("apply", TINY, "-r", "standard", "-o", tmp_path / "saved").exit_code == 0
    done = run("eject", tmp_path / "saved", "-o", tmp_path / "a", "--json")
    files = ["check.py", "check.safetensors", "model.py", "ruff.toml", "weights.safetensors"]
    assert json.loads(done.stdout) == {"output": str(tmp_path / "a"), "files": files}
    assert run("eject", TINY, "-r", "pre", "-o", tmp_path / "b").exit_code == 0
    assert "add --recipe" in run("eject", TINY, "-o", tmp_path / "c").stderr


CACHED = """


class Gridded(Net):
    shape = None

    def forward(self, x):
        if self.shape != x.shape:
            self.grid, self.shape = torch.ones(x.shape[-1]), x.shape
        return super().forward(x * self.grid)


def gridded():
    return Gridded(8, 1)
"""


def test_what_a_run_has_left_behind_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "cached.py").write_text(SOURCE + CACHED)
    surgery = sesurgery.apply(f"{tmp_path / 'cached.py'}:gridded", "standard", input_size="32")
    surgery.model(torch.zeros(1, 3, 32, 32))
    text = (sesurgery.eject(surgery, tmp_path / "a") / "model.py").read_text()
    assert "host.se = " in text
    assert "shape" not in text


def test_reading(tmp_path: Path) -> None:
    surgery = sesurgery.apply(TINY, "standard", stages="4")
    text = (sesurgery.eject(surgery, tmp_path / "a") / "model.py").read_text()
    body = text[text.index("def operate") : text.index("def build")].strip()
    assert (
        body
        == textwrap.dedent('''
        def operate(model: nn.Module) -> None:
            """Make of the model as its library has it what it became, in place."""
            host = model.get_submodule("layer4.0")
            host.se = SEModule(96, rd_channels=8, gate_layer=Sigmoid)
    ''').strip()
    )


def test_imports_stand_in_the_order_that_ruff_wants(tmp_path: Path) -> None:
    """A name that gets another one, as transformers' older names do, has a statement of its own."""
    names = Names()
    given = {"Old": "B", "A": "A", "C": "C", "low": "low", "other": "abc"}
    names.imports = {name: ("package", attribute) for name, attribute in given.items()}
    body = "\n".join(f"print({name})" for name in given)
    file = tmp_path / "model.py"
    file.write_text("\n".join(names.lines(body)) + f"\n\n{body}\n")
    done = subprocess.run(["ruff", "check", "--select", "I", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surgery = sesurgery.apply(TINY, "standard", stages="4", input_size="64")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file is a file; name a folder"):
        sesurgery.eject(surgery, tmp_path / "file" / "inner")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sesurgery.export.eject.save_model", full)
    with pytest.raises(ArtifactError, match="place: cannot be written: No space left"):
        sesurgery.eject(surgery, tmp_path / "place")
    assert not (tmp_path / "place").exists()
