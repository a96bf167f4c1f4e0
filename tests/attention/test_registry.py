"""The registry: names in any spelling, entries that say what they are, layers of one's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from ports import MAP, PORTS, sample
from registries import restored
from torch import nn

import sesurgery.attention as attn
from sesurgery.attention import LAYOUTS, Port, attention, build, check_options, refusal
from sesurgery.errors import InputError, UnknownNameError


@pytest.fixture
def scratch() -> Iterator[None]:
    """A registry that is as it was afterwards."""
    with restored():
        yield


def test_names_are_found_in_any_spelling() -> None:
    assert attn.canonical("SE-MBConv") == "se_mbconv"
    assert attn.entry("Se").name == "se"
    with pytest.raises(UnknownNameError) as caught:
        attn.entry("ecaa")
    assert caught.value.kind == "module"
    assert "eca" in caught.value.nearest
    with pytest.raises(UnknownNameError):
        build("no such thing", MAP, {})


def test_every_entry_is_described_and_has_a_child_name_that_is_python() -> None:
    for name in attn.names():
        found = attn.entry(name)
        assert found.summary
        assert found.source
        assert check_options(name, found.defaults) == []
        assert set(found.defaults) <= found.options
        compile(f"self.{attn.child_name(name)}(x)", "forward", "eval")
    assert attn.child_name("se_mbconv") == "se"
    assert attn.child_name("lambda") == "lambda_attn"


def test_importing_the_registry_imports_no_torch() -> None:
    code = (
        "import sys, sesurgery.attention as a; a.names(); a.check_options('se', {'reduction': 8});"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("scratch")
def test_a_function_of_ones_own() -> None:
    @attention("my-node", summary="mine", layouts=("nchw", "nlc"))
    def make(port: Port, *, reduction: int = 4, bias: bool = True) -> nn.Module:
        return nn.Linear(port.channels, port.channels, bias=bias) if port.layout == "nlc" else nn.Identity()

    assert make(PORTS["nlc"]).in_features == 16
    assert attn.entry("My_Node").options == {"reduction", "bias"}
    assert build("my_node", PORTS["nlc"], {"bias": False}).bias is None
    born = build("my_node", PORTS["nlc"], {"init": "identity"})
    assert torch.equal(born(sample(PORTS["nlc"])), sample(PORTS["nlc"]))
    assert "(N, C, L)" in str(refusal("my_node", PORTS["ncl"], {}))
    assert 'did you mean "reduction"' in check_options("my-node", {"reducton": 2})[0]
    assert attn.child_name("my-node") == "my_node"


@pytest.mark.usefixtures("scratch")
def test_a_class_of_ones_own() -> None:
    @attention("gain")
    class Gain(nn.Module):
        """Scale every channel."""

        def __init__(self, channels: int, start: float = 1.0) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((channels, 1, 1), start))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    node = build("gain", MAP, {"start": 2.0})
    assert isinstance(node, Gain)
    assert torch.equal(node(sample(MAP)), 2 * sample(MAP))
    assert attn.entry("gain").summary == "Scale every channel."


@pytest.mark.usefixtures("scratch")
def test_what_ones_own_node_may_not_do() -> None:
    for name in ("SE", "", "a b", "1st", "x" * 99):
        with pytest.raises(InputError):
            attention(name)(lambda port: nn.Identity())
    with pytest.raises(InputError, match='unknown layout "nhcw"; did you mean "nhwc"'):
        attention("mine", layouts=("nhcw",))(lambda port: nn.Identity())
    attention("none")(lambda port: None)
    with pytest.raises(InputError, match="NoneType"):
        build("none", MAP, {})
    attention("pool")(lambda port: nn.AvgPool2d(2))
    assert "has to keep the shape" in str(refusal("pool", MAP, {}))
    attention("pool")(lambda port: nn.Conv2d(3, 3, 1))
    assert "pool cannot take (N, C, H, W)" in str(refusal("pool", MAP, {}))


def test_ports() -> None:
    assert {layout: port.layout for layout, port in PORTS.items()} == {layout: layout for layout in LAYOUTS}
    assert PORTS["nhwc"].spatial == (8, 8)
    assert PORTS["ncthw"].positions == 48
    assert PORTS["nc"].spatial == ()
    for axis in (-1, 0, 4):
        with pytest.raises(ValueError, match="channel axis"):
            Port((2, 3, 4, 5), axis)
