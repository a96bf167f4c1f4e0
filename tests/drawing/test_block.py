"""A block before and after, as graphs: what is new, what goes, and what graphviz makes of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from networks import TINY
from stand_in import run

import sesurgery
from sesurgery.errors import InputError

GREEN, RED = "#b7ebc6", "#ffd7d5"


def marked(text: str) -> dict[str, set[str]]:
    """The nodes that are drawn in green and in red, by what stands in them first."""
    nodes = re.findall(r'^ *"\w+ [^"]*" \[(?:shape=oval, )?label="([^"\\]*)[^;]*?(#b7ebc6|#ffd7d5)', text, re.MULTILINE)
    return {colour: {name for name, given in nodes if given == colour} for colour in (GREEN, RED)}


def test_an_inserted_layer_is_green_and_its_shapes_are_drawn() -> None:
    text = sesurgery.draw("resnet18", "pre", stages="4", form="dot").decode()
    assert marked(text) == {GREEN: {"se_pre"}, RED: set()}
    assert "layer4.0, before" in text
    assert "layer4.0, after" in text
    assert '"after x" -> "after se_pre"' in text
    assert 'label="512 x 7 x 7"' in text


def test_an_exchanged_layer_is_red_before_and_green_after() -> None:
    text = sesurgery.draw("mobilenetv2_100", "shufflenet-k5", block="blocks.5.1", form="dot").decode()
    assert marked(text) == {GREEN: {"conv_dw"}, RED: {"conv_dw"}}
    assert "960 → 960 3x3" in text
    assert "960 → 960 5x5" in text


def test_a_socket_that_is_filled_is_green_under_its_own_name() -> None:
    text = sesurgery.draw("cs3darknet_s", "yolov5-c3", form="dot").decode()
    assert marked(text) == {GREEN: {"attn"}, RED: {"attn"}}


def test_a_layer_that_goes_is_red() -> None:
    drawn = marked(sesurgery.draw("seresnet18", "strip-attention", form="dot").decode())
    assert "se" in drawn[RED]


def test_a_block_in_which_nothing_changes() -> None:
    with pytest.raises(InputError, match=r'^block: nothing changes in "layer1.1"; did you mean "layer4.1"'):
        sesurgery.draw("resnet18", "pre", stages="4", block="layer1.1", form="dot")


def test_without_graphviz_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = run("draw", TINY, "-r", "standard", "-o", str(tmp_path / "a.svg"))
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "apt install graphviz" in result.stderr
    assert run("draw", TINY, "-r", "standard", "-o", str(tmp_path / "a.dot")).exit_code == 0
    assert (tmp_path / "a.dot").read_text().startswith("digraph")


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize(("form", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_graphviz_draws_it(form: str, begin: bytes) -> None:
    assert sesurgery.draw(TINY, "standard", form=form).startswith(begin)
