"""What gates do is measured as it is: compared with the layer's own gate, computed apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import TINY, Net, Short, lively
from PIL import Image
from torch import nn

import sesurgery
from sesurgery.errors import InputError, ModelError

X = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(4))
LABELS = torch.arange(12) % 3


def gated() -> nn.Module:
    torch.manual_seed(0)
    surgery = sesurgery.apply(Net(Short(), Short()), "standard", example_input=X[:1], reduction=2)
    return lively(surgery.model)


def own_gates(model: nn.Module, path: str) -> torch.Tensor:
    """The gates of an SE layer by its own sigmoid: (samples, channels)."""
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(path).gate.register_forward_hook(lambda *args: seen.append(args[2]))  # type: ignore[union-attr]
    with torch.no_grad():
        model(X)
    hook.remove()
    return seen[0].flatten(1).double()


def test_the_figures_are_those_of_the_layers_own_gate() -> None:
    model = gated()
    batches = [(X[start : start + 5], LABELS[start : start + 5]) for start in (0, 5, 10)]
    result = sesurgery.gates(model, batches, classes=["a", "b", "c"])
    assert (result.samples, result.classes) == (12, ("a", "b", "c"))
    assert [gate.path for gate in result.layers] == ["blocks.0.se", "blocks.1.se"]
    for gate in result.layers:
        own = own_gates(model, gate.path)
        by_class = torch.stack([own[label == LABELS].mean(0) for label in range(3)])
        expected = {
            "mean": own.mean(),
            "by_sample": own.std(0, correction=0).mean(),
            "by_channel": own.mean(0).std(correction=0),
            "by_class": by_class.std(0, correction=0).mean(),
            "closed": (own < 0.05).double().mean(),
            "open": (own > 0.95).double().mean(),
            "moved": (own - 0.5).abs().mean(),
        }
        for name, value in expected.items():
            assert getattr(gate, name) == pytest.approx(float(value), abs=1e-5), name
        assert gate.profile == pytest.approx(own.mean(0).tolist(), abs=1e-5)
        assert gate.class_profiles[1] == pytest.approx(by_class[1].tolist(), abs=1e-5)


def test_saturated_gates_are_open_or_closed() -> None:
    model = gated()
    with torch.no_grad():
        bias = model.get_submodule("blocks.0.se.fc2").bias
        bias[:4], bias[4:] = 50, -50  # type: ignore[index]
    first = sesurgery.gates(model, [X]).layers[0]
    assert (first.open, first.closed, first.by_class) == (0.5, 0.5, None)


def test_the_identity_has_not_moved() -> None:
    base = lively(timm.create_model("test_resnet"))  # fresh, its branches end in zeros
    result = sesurgery.gates(sesurgery.apply(base, "standard", init="identity"))
    assert {round(gate.mean, 5) for gate in result.layers} == {1.0}
    assert {round(gate.moved, 5) for gate in result.layers} == {0.0}
    assert "random noise" in result.notes[0]


def test_tokens_spatial_gates_and_native_layers_are_measured() -> None:
    vit = sesurgery.apply("timm:test_vit", "standard", module="se")
    assert {gate.channels for gate in sesurgery.gates(vit).layers} == {64}
    cbam = sesurgery.apply(TINY, "standard", module="cbam")
    lively(cbam.model)
    assert len(sesurgery.gates(cbam).layers) == len(cbam.plan.edits)
    native = sesurgery.gates(lively(timm.create_model("test_efficientnet")))
    assert native.layers
    assert all(0 < gate.mean < 1 for gate in native.layers)
    assert [gate.stage for gate in native.layers] == sorted(gate.stage or 0 for gate in native.layers)


def test_the_model_is_left_as_it_was() -> None:
    model = gated().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    sesurgery.gates(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(part.training and not part._forward_hooks for part in model.modules())


def test_samples_that_are_not_finite_are_left_out_and_said() -> None:
    model = gated()
    broken = X.clone()
    broken[0, 0, 0, 0] = float("nan")
    result = sesurgery.gates(model, [broken], example_input=X[:1])
    assert "some samples gave values that are not finite, and were left out" in result.notes
    for gate, other in zip(result.layers, sesurgery.gates(model, [X[1:]], example_input=X[:1]).layers, strict=True):
        assert gate.profile == pytest.approx(other.profile)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="has no attention layer"):
        sesurgery.gates(Net(Short()), example_input=X[:1])
    with pytest.raises(InputError, match="gives no batch"):
        sesurgery.gates(gated(), [], example_input=X[:1])
    with pytest.raises(InputError, match="gives a dict"):
        sesurgery.gates(gated(), [{"image": X}], example_input=X[:1])
    with pytest.raises(InputError, match="a int gives no batches"):
        sesurgery.gates(gated(), 3, example_input=X[:1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"gives 1 labels for {len(X)} samples"):
        sesurgery.gates(gated(), [(X, torch.tensor([0]))], example_input=X[:1])
    with pytest.raises(ModelError, match=r"fails on a batch.*in a pair with its labels, whole numbers"):
        sesurgery.gates(gated(), [(X, torch.rand(len(X), 3))], example_input=X[:1])
    with pytest.raises(InputError, match='no sample is of class "z"'):
        sesurgery.gates(gated(), [X], example_input=X[:1]).figure(classes=["z"])


def test_the_command_reads_a_folder_of_images_and_draws(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sesurgery.cli.app import app

    def run(*args: object) -> Any:
        return CliRunner().invoke(app, [str(arg) for arg in args])

    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (80, 70), (90 * number, 60 * index, 99)).save(tmp_path / "images" / name / f"{index}.png")
    operated = sesurgery.apply(TINY, "standard").model
    sesurgery.save(lively(operated), tmp_path / "a")
    done = run("gates", tmp_path / "a", "--data", tmp_path / "images", "--picture", tmp_path / "g.svg", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["samples"], said["classes"]) == (4, ["cat", "dog"])
    assert all(len(layer["class_profiles"]) == 2 for layer in said["layers"])
    assert (tmp_path / "g.svg").read_text().lstrip().startswith("<?xml")
    assert "moved" in run("gates", tmp_path / "a").stdout
    assert "no such folder" in run("gates", tmp_path / "a", "--data", tmp_path / "none").stderr
    assert run("gates", tmp_path / "a", "--picture", "x.txt").exit_code == 2
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"no picture")
    done = run("gates", tmp_path / "a", "--data", tmp_path / "images")
    assert (done.exit_code, "broken.png: is no image that can be read" in done.stderr) == (2, True)
