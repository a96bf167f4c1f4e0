"""Plain models operated by recipe become timm's own attention variants: keys, shapes, parameters and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
import yaml
from networks import lively
from places import FACTS
from torch import nn

import sesurgery
from sesurgery.recipe.phrases import At, parse_at

STATED = yaml.safe_load((FACTS / "native_pairs.yaml").read_text())

BEFORE_ADD = "before residual add"
SPATIAL = "after spatial conv"
FIRST = "after the block's first conv"
LAST_END = "end of the last block of a stage"
SE16 = {"module": "se", "reduction": 16}
SE4 = {"module": "se", "reduction": 4}
ECA = {"module": "eca"}
REGNETY = {"module": "se", "reduction": 4, "reduce_from": "block input"}

# plain, native, at, node, parameters that the two differ by: every further pair of timm 1.0.31 whose plain keys are a
# subset of the native ones, with attention alone on top (the deepest of a family left out, to save time).
FURTHER: list[tuple[str, str, str, Mapping[str, Any], int]] = [
    ("resnet34", "seresnet34", BEFORE_ADD, SE16, 162744),
    ("resnet50t", "seresnet50t", BEFORE_ADD, SE16, 2530992),
    ("resnet50t", "ecaresnet50t", BEFORE_ADD, ECA, 86),
    ("resnet101", "seresnet101", BEFORE_ADD, SE16, 4777712),
    ("resnet101d", "ecaresnet101d", BEFORE_ADD, ECA, 171),
    ("resnet152", "seresnet152", BEFORE_ADD, SE16, 6629040),
    ("resnet152d", "seresnet152d", BEFORE_ADD, SE16, 6629040),
    ("resnet200d", "seresnet200d", BEFORE_ADD, SE16, 7162032),
    ("resnetaa50d", "seresnetaa50d", BEFORE_ADD, SE16, 2530992),
    ("resnext101_32x4d", "seresnext101_32x4d", BEFORE_ADD, SE16, 4777712),
    ("resnext101_32x8d", "seresnext101_32x8d", BEFORE_ADD, SE16, 4777712),
    ("resnext101_64x4d", "seresnext101_64x4d", BEFORE_ADD, SE16, 4777712),
    ("nf_resnet26", "nf_seresnet26", BEFORE_ADD, SE16, 1400800),
    ("nf_resnet26", "nf_ecaresnet26", BEFORE_ADD, ECA, 44),
    ("nf_resnet50", "nf_seresnet50", BEFORE_ADD, SE16, 2530992),
    ("nf_resnet50", "nf_ecaresnet50", BEFORE_ADD, ECA, 86),
    ("resnet33ts", "seresnet33ts", SPATIAL, SE16, 102944),
    ("resnet33ts", "eca_resnet33ts", SPATIAL, ECA, 46),
    ("resnet33ts", "gcresnet33ts", SPATIAL, {"module": "gca"}, 204442),
    ("resnext26ts", "eca_resnext26ts", SPATIAL, ECA, 36),
    ("resnext26ts", "bat_resnext26ts", SPATIAL, {"module": "bat", "block_size": 8}, 433248),
    ("regnetx_120", "regnety_120", SPATIAL, REGNETY, 5716488),
    ("cs3darknet_x", "cs3sedarknet_x", FIRST, {**SE16, "act": "inherit"}, 351584),
    ("cs3edgenet_x", "cs3se_edgenet_x", FIRST, {**SE4, "act": "inherit"}, 2900464),
    ("vovnet39a", "ese_vovnet39b", LAST_END, {"module": "ese"}, 1968640),
    ("vovnet39a", "eca_vovnet39b", LAST_END, ECA, 20),
    ("vovnet57a", "ese_vovnet57b", LAST_END, {"module": "ese"}, 1968640),
]
# Those whose outputs are compared too: the smallest of each module family. Not VoVNet: timm's 39b and 57b add residual
# sums to 39a and 57a besides.
COMPARED = (
    ("resnet34", "seresnet34"),
    ("nf_resnet26", "nf_seresnet26"),
    ("nf_resnet26", "nf_ecaresnet26"),
    ("resnet33ts", "gcresnet33ts"),
    ("resnext26ts", "bat_resnext26ts"),
    ("cs3darknet_x", "cs3sedarknet_x"),
)


def rule(at: str, node: Mapping[str, Any]) -> dict[str, Any]:
    if at == LAST_END:
        return {"name": "pair", "rules": [{"insert": dict(node), "at": "end of block", "where": {"blocks": "-1"}}]}
    return {"name": "pair", "rules": [{"insert": dict(node), "at": at}]}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def assert_same_function(plain: str, native: str, at: str, node: Mapping[str, Any], params: int, size: int) -> None:
    theirs = lively(timm.create_model(native))
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = theirs(image)
    surgery = sesurgery.apply(timm.create_model(plain), rule(at, node), inplace=True, input_size=(3, size, size))
    assert shapes(surgery.model) == shapes(theirs)
    assert surgery.after.params - surgery.before.params == params
    assert sum(parameter.numel() for parameter in surgery.new_parameters()) == params
    assert sum(edit.params for edit in surgery.plan.edits) == params
    surgery.model.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        found = surgery.model.eval()(image)
        for parameter in surgery.new_parameters():
            parameter.normal_()
        moved = surgery.model(image)
    assert torch.equal(found, wanted)
    assert not torch.equal(moved, wanted), "the comparison must be able to fail"


@pytest.mark.parametrize("pair", STATED, ids=[f"{pair['plain']}-{pair['native']}" for pair in STATED])
def test_stated_pair_is_the_native_model(pair: Mapping[str, Any]) -> None:
    assert_same_function(pair["plain"], pair["native"], pair["at"], pair["node"], pair["params"], 64)


@pytest.mark.parametrize(
    "pair", [pair for pair in FURTHER if pair[:2] in COMPARED], ids=[f"{a}-{b}" for a, b in COMPARED]
)
def test_further_pair_is_the_native_model(pair: tuple[str, str, str, Mapping[str, Any], int]) -> None:
    # Bilinear attention has tiles of 8: its smallest map must hold one.
    assert_same_function(*pair, size=256 if "bat" in pair[1] else 64)


@pytest.mark.parametrize("pair", FURTHER, ids=[f"{pair[0]}-{pair[1]}" for pair in FURTHER])
def test_further_pair_has_the_native_keys(pair: tuple[str, str, str, Mapping[str, Any], int]) -> None:
    plain, native, at, node, params = pair
    with torch.device("meta"):
        model, theirs = timm.create_model(plain), timm.create_model(native)
    old = shapes(model)
    surgery = sesurgery.apply(model, rule(at, node), inplace=True)
    assert shapes(surgery.model) == shapes(theirs)
    assert surgery.after.params - surgery.before.params == params
    assert {key: shape for key, shape in shapes(surgery.model).items() if key in old} == old
    assert type(surgery.model) is type(theirs)


def test_lite_with_the_native_activation_and_the_mbconv_recipe_is_efficientnet() -> None:
    theirs = lively(timm.create_model("efficientnet_b0"))
    plain = timm.create_model("efficientnet_lite0", act_layer="silu")
    model = sesurgery.apply(plain, "mbconv", inplace=True, input_size=(3, 64, 64)).model
    model.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(image), theirs(image))


def test_first_conv_of_the_block_is_a_phrase() -> None:
    assert parse_at(FIRST) == At("after conv", 1)
