"""Operated models under LoRA: new layers trained and saved whole, nothing put into them, merged and reverted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import lively
from torch import nn

import sesurgery
from sesurgery.errors import InputError
from sesurgery.integrations.operations import new_layers
from sesurgery.integrations.peft import config_for

peft = pytest.importorskip("peft")
IMAGES = torch.rand(2, 3, 160, 160)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return lively(sesurgery.models.zoo.create(sesurgery.models.zoo.resolve("timm:test_vit")))


@pytest.fixture
def operated() -> nn.Module:
    return lively(sesurgery.apply(plain(), "standard", input_size="160").model)


def trained(model: Any) -> Any:
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model.train()(IMAGES).square().mean().backward()
    optimizer.step()
    return model.eval()


@pytest.mark.parametrize("targets", [["fc1", "qkv"], r".*\.(fc1|qkv)"])
@pytest.mark.parametrize("excluded", [None, ["blocks.0.attn.qkv"], r".*blocks\.0\.attn\.qkv"])
def test_new_layers_are_trained_and_no_adapter_is_put_into_them(
    operated: nn.Module, targets: Any, excluded: Any
) -> None:
    given = peft.LoraConfig(target_modules=targets, exclude_modules=excluded, r=2)
    model = peft.get_peft_model(operated, config_for(operated, given))
    assert given.modules_to_save is None
    free = {name for name, each in model.named_parameters() if each.requires_grad}
    for path in new_layers(operated):
        inside = {name for name in free if name.startswith(f"base_model.model.{path}.")}
        assert inside
        assert not any("lora" in name for name in inside)
    adapters = {name for name in free if "lora" in name}
    assert any("mlp.fc1" in name for name in adapters)
    assert any("blocks.0.attn.qkv" in name for name in adapters) == (excluded is None)


def test_saved_loaded_merged_and_reverted(operated: nn.Module, tmp_path: Path) -> None:
    base, old = copy.deepcopy(operated), plain()
    model = peft.get_peft_model(operated, config_for(operated, peft.LoraConfig(target_modules=["fc1", "qkv"], r=2)))
    trained(model).save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(IMAGES)
        assert not torch.equal(wanted, base(IMAGES))
        again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
        assert torch.equal(again(IMAGES), wanted)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    assert len(sesurgery.plans_of(merged)) == 1
    assert sesurgery.revert(merged).state_dict().keys() == old.state_dict().keys()


def test_loaded_onto_a_plain_model_peft_says_what_is_not_there(operated: nn.Module, tmp_path: Path) -> None:
    config = config_for(operated, peft.LoraConfig(target_modules=["qkv"], r=2))
    peft.get_peft_model(operated, config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"exclude_modules=.*se\.fc1.*but no modules were excluded"):
        peft.PeftModel.from_pretrained(plain(), tmp_path)


@pytest.mark.filterwarnings("ignore:Already unmerged")
def test_a_model_under_lora_is_operated_on_merged_and_reverted() -> None:
    model = peft.get_peft_model(plain(), peft.LoraConfig(target_modules=["qkv"], r=2))
    surgery = sesurgery.apply(model, "standard", example_input=IMAGES[:1], inplace=True)
    lively(surgery.model)
    with torch.no_grad():
        wanted = surgery.model.eval()(IMAGES)
        merged = surgery.model.merge_and_unload()
        torch.testing.assert_close(merged(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    layers = [edit.path.removeprefix("base_model.model.") for edit in surgery.plan.edits]
    assert all(list(merged.get_submodule(path).parameters()) for path in layers)
    assert sesurgery.revert(merged).state_dict().keys() == plain().state_dict().keys()


def test_bad_input(operated: nn.Module) -> None:
    with pytest.raises(InputError, match="no operation has changed"):
        config_for(plain(), peft.LoraConfig())
    with pytest.raises(InputError, match="no modules_to_save"):
        config_for(operated, peft.PromptTuningConfig())
