"""A second operation on one model, and several rules in one recipe."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from checks import everything, recipe, se
from networks import SIZE, small_resnet

import sesurgery


@pytest.mark.parametrize("name", ["standard", "pre", "post", "identity", "se-3x3", "backbone-end", "yolov5-c3"])
def test_second_application_refuses(name: str) -> None:
    model = sesurgery.apply(small_resnet(), name, inplace=True, input_size=SIZE).model
    before = everything(model)
    with pytest.raises(sesurgery.NothingMatchedError, match=r"already has attention: se.*stack \| replace"):
        sesurgery.apply(model, name, inplace=True, input_size=SIZE)
    assert everything(model) == before


@pytest.mark.parametrize("at", ["before residual add", "after spatial conv", "end of backbone"])
def test_stacking_and_replacing(at: str) -> None:
    stacked = sesurgery.apply(small_resnet(), recipe(se(at)), inplace=True, input_size=SIZE)
    more = sesurgery.apply(stacked.model, recipe(se(at, if_present="stack")), inplace=True, input_size=SIZE)
    assert len(more.plan.edits) == len(stacked.plan.edits)
    assert more.after.params - more.before.params == stacked.after.params - stacked.before.params
    single = sesurgery.apply(small_resnet(), recipe(se(at)), inplace=True, input_size=SIZE)
    swap = recipe({"insert": {"module": "eca"}, "at": at, "if_present": "replace"})
    swapped = sesurgery.apply(single.model, swap, inplace=True, input_size=SIZE)
    assert [edit.path for edit in swapped.plan.edits] == [edit.path for edit in single.plan.edits]
    kinds = {type(swapped.model.get_submodule(edit.path)).__name__ for edit in swapped.plan.edits}
    assert kinds == {"EcaModule"}
    for model in (more.model, swapped.model):
        assert model(torch.randn(1, *SIZE)).shape == (1, 10)
        sesurgery.revert(model)
        assert all("se" not in dict(block.named_children()) for block in (*model.layer1, *model.layer2))
        assert list(model.state_dict()) == list(small_resnet().state_dict())


def test_native_attention_is_found_too() -> None:
    model = timm.create_model("seresnet18", num_classes=10, layers=(1, 1, 1, 1), channels=(16, 24, 32, 48))
    with pytest.raises(sesurgery.NothingMatchedError, match="already has attention: se"):
        sesurgery.apply(model, "standard", input_size=SIZE)


def test_several_rules_compose_in_one_host() -> None:
    rules = (se("start of residual branch"), se("after spatial conv"), se("before residual add", if_present="stack"))
    rules = (*rules, se("on identity branch"), se("after residual add"))
    plain = small_resnet()
    image = torch.randn(1, *SIZE)
    surgery = sesurgery.apply(plain, recipe(*rules), input_size=SIZE, init="identity")
    names = [edit.path.rpartition(".")[2] for edit in surgery.plan.edits if edit.host == "layer1.0"]
    assert len(names) == len(set(names)) == 6  # two spatial convolutions in a BasicBlock
    with torch.no_grad():
        assert torch.equal(surgery.model(image), plain(image))
    calls: list[str] = []
    for name in names:
        node = surgery.model.layer1[0].get_submodule(name)
        node.register_forward_hook(functools.partial(lambda name, *_: calls.append(name), name))
    surgery.model(image)
    assert sorted(calls) == sorted(names)
    sesurgery.revert(surgery.model)
    assert list(surgery.model.state_dict()) == list(plain.state_dict())


def test_socket_and_generated_forward_share_a_host() -> None:
    """One rule may fill ``se = None`` and rewrite the same forward; both nodes must be called."""
    surgery = sesurgery.apply(small_resnet(), recipe(se("after spatial conv")), input_size=SIZE)
    assert {edit.route for edit in surgery.plan.edits} == {"socket", "source"}
    surgery.model(torch.randn(2, *SIZE)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in surgery.new_parameters())


@pytest.mark.parametrize("parts_first", [True, False])
@pytest.mark.parametrize("reverted", ["whole", "part, whole"])
def test_operations_on_a_part_and_on_the_whole_are_undone_in_either_order(parts_first: bool, reverted: str) -> None:
    model = small_resnet().eval()
    image = torch.randn(1, *SIZE)
    wanted = model(image)
    part = functools.partial(sesurgery.apply, model.layer1, "post", example_input=torch.randn(1, 64, 16, 16))
    whole = functools.partial(sesurgery.apply, model, "pre", input_size=SIZE)
    for operation in (part, whole) if parts_first else (whole, part):
        operation(inplace=True)
    assert [len(sesurgery.plans_of(each)) for each in (model, model.layer1)] == [1, 1]
    assert not torch.equal(model(image), wanted)
    for each in (model.layer1, model) if reverted == "part, whole" else (model,):
        sesurgery.revert(each)
    assert torch.equal(model(image), wanted)
    assert [sesurgery.plans_of(each) for each in (model, model.layer1)] == [(), ()]
    assert list(model.state_dict()) == list(small_resnet().state_dict())


def test_plans_of_a_model_tell_what_was_done_oldest_first() -> None:
    first = sesurgery.apply(small_resnet(), "post", inplace=True, input_size=SIZE)
    second = sesurgery.apply(first.model, "pre", input_size=SIZE)
    assert sesurgery.plans_of(second.model) == (first.plan, second.plan)
    assert sesurgery.plans_of(first.model) == (first.plan,)
    assert sesurgery.plans_of(small_resnet()) == ()
