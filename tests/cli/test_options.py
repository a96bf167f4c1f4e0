"""Options reach the engine as what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import Engine, run


def test_options_reach_the_engine(engine: Engine, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    words = "resnet18 --recipe standard --stages -1 --module se --set reduction=8 --set bias=false --init identity"
    more = ["--model-arg", "num_classes=10", "--input-size", "3,64,64", "--weights", str(weights)]
    result = run("apply", *words.split(), *more)
    assert result.exit_code == 0, result.output
    call = engine.calls["apply"]
    assert call["args"] == ("resnet18", "standard")
    assert call["stages"] == "-1"
    assert call["module"] == "se"
    assert (call["reduction"], call["bias"], call["init"]) == (8, False, "identity")
    assert call["model_args"] == {"num_classes": 10}
    assert call["input_size"] == (3, 64, 64)
    assert call["weights"] == weights
    assert "save" not in engine.calls


@pytest.mark.parametrize("extra", [[], ["-o", "out"], ["--pretrained"]])
def test_weights_are_materialised_only_where_they_matter(
    engine: Engine, extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("apply", "resnet18", "--recipe", "standard", *extra).exit_code == 0
    assert engine.calls["apply"]["device"] == ("cpu" if extra else "meta")
    assert ("save" in engine.calls) is ("-o" in extra)


@pytest.mark.parametrize(
    ("text", "size"), [("3,192,256", (3, 192, 256)), ("192", (3, 192, 192)), ("3x8x112x112", (3, 8, 112, 112))]
)
def test_input_sizes(engine: Engine, text: str, size: tuple[int, ...]) -> None:
    assert run("inspect", "r3d_18", "--input-size", text).exit_code == 0
    assert engine.calls["inspect"]["input_size"] == size
