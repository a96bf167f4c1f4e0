"""plan, apply, replay and revert: what they change, what they leave alone, what they refuse."""

from __future__ import annotations

import copy
import functools
from typing import Any

import networks
import pytest
import timm
import torch
from networks import SIZE, small_resnet
from torch import nn

import sesurgery
from sesurgery.plans import Plan


def recipe(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"name": "test", "rules": list(rules)}


def se(at: str, **more: Any) -> dict[str, Any]:
    return {"insert": {"module": "se", "rd_channels": 4}, "at": at, **more}


def everything(model: nn.Module) -> list[Any]:
    """All that an operation could change, as it is now."""
    return [
        (
            path,
            module,
            type(module),
            list(module.__dict__),
            {name: value for name, value in module.__dict__.items() if not name.startswith("_")},
            {name: id(child) for name, child in module._modules.items()},
            {name: (id(tensor), tensor._version) for name, tensor in module._parameters.items() if tensor is not None},
            {name: (id(tensor), tensor._version) for name, tensor in module._buffers.items() if tensor is not None},
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            dict(module._backward_hooks),
        )
        for path, module in model.named_modules()
    ]


# The example of the README.


def test_last_stage_of_resnet50() -> None:
    surgery = sesurgery.apply("resnet50", "standard", stages="4", device="meta")
    assert [edit.path for edit in surgery.plan.edits] == ["layer4.0.se", "layer4.1.se", "layer4.2.se"]
    assert (surgery.before.params, surgery.after.params) == (25_557_032, 27_136_424)
    assert sum(parameter.numel() for parameter in surgery.model.parameters()) == 27_136_424
    assert all(edit.stage == 4 and edit.channels == 2048 and edit.module == "se" for edit in surgery.plan.edits)


def test_all_stages_of_resnet50() -> None:
    made = sesurgery.plan("resnet50", "standard")
    assert made.before is not None
    assert made.after is not None
    assert (made.before.params, made.after.params, len(made.edits)) == (25_557_032, 28_088_024, 16)


# Planning and copying.


@pytest.mark.parametrize("training", [True, False])
def test_planning_touches_nothing(training: bool) -> None:
    model = small_resnet().train(training)
    model.layer2.eval()
    model.layer1[0].register_forward_hook(lambda module, args, output: output)
    before, state = everything(model), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    sesurgery.plan(model, recipe(se("before residual add"), se("after spatial conv")), input_size=SIZE)
    sesurgery.inspect(model, input_size=SIZE)
    assert torch.equal(torch.get_rng_state(), random)
    assert everything(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_refused_operation_touches_nothing() -> None:
    model = small_resnet()
    before = everything(model)
    with pytest.raises(sesurgery.NothingMatchedError):
        sesurgery.apply(model, "inception", inplace=True, input_size=SIZE)
    assert everything(model) == before


def test_apply_copies_unless_told_otherwise() -> None:
    model = small_resnet()
    before = everything(model)
    surgery = sesurgery.apply(model, "standard", input_size=SIZE)
    assert surgery.model is not model
    assert everything(model) == before
    assert not set(map(id, model.parameters())) & set(map(id, surgery.model.parameters()))


def test_apply_in_place_keeps_every_object() -> None:
    model = small_resnet()
    parameters = dict(model.named_parameters())
    surgery = sesurgery.apply(model, "standard", inplace=True, input_size=SIZE)
    assert surgery.model is model
    now = dict(model.named_parameters())
    assert all(now[name] is parameter for name, parameter in parameters.items())
    new = [parameter for name, parameter in now.items() if name not in parameters]
    assert {id(parameter) for parameter in surgery.new_parameters()} == set(map(id, new))
    assert len(new) == 4 * 5


def test_new_nodes_take_mode_and_dtype_of_their_host() -> None:
    model = small_resnet().to(torch.bfloat16).train()
    model.layer2.eval()
    surgery = sesurgery.apply(model, "standard", inplace=True, input_size=SIZE, example_input=None)
    assert {parameter.dtype for parameter in surgery.new_parameters()} == {torch.bfloat16}
    assert model.layer1[0].se.training
    assert not model.layer2[0].se.training
    assert model(torch.randn(2, *SIZE, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_half_precision_model_keeps_its_function_with_identity() -> None:
    model = small_resnet().half()
    image = torch.randn(1, *SIZE).half()
    with torch.no_grad():
        before = model(image)
        sesurgery.apply(model, "pre", inplace=True, init="identity", input_size=SIZE)
        assert torch.equal(model(image), before)


# Plans as data.


def test_plan_survives_json_and_gives_the_same_model() -> None:
    made = sesurgery.plan(
        small_resnet(), recipe(se("before residual add"), se("start of residual branch")), input_size=SIZE
    )
    again = Plan.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    torch.manual_seed(0)
    direct = sesurgery.apply(small_resnet(), made, input_size=SIZE)
    torch.manual_seed(0)
    replayed = sesurgery.apply(small_resnet(), again, input_size=SIZE)
    image = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(direct.model.eval()(image), replayed.model.eval()(image))
    assert list(direct.model.state_dict()) == list(replayed.model.state_dict())


def test_replay_equals_apply_on_another_instance() -> None:
    first = sesurgery.apply(small_resnet(), "post", input_size=SIZE)
    second = sesurgery.apply(small_resnet(), first.plan, input_size=SIZE)
    second.model.load_state_dict(first.model.state_dict(), strict=True)
    image = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(first.model(image), second.model(image))
    assert second.after == first.after


@pytest.mark.parametrize(
    "other",
    [
        lambda: timm.create_model("resnet50", num_classes=10, layers=(1, 2, 1, 1), channels=(16, 24, 32, 48)),
        lambda: small_resnet(layers=(1, 1, 1, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)),
    ],
    ids=["other blocks", "fewer blocks", "another network"],
)
@pytest.mark.parametrize("name", ["standard", "post"])
def test_plan_for_another_network_is_stale(name: str, other: Any) -> None:
    made = sesurgery.plan(small_resnet(), name, input_size=SIZE)
    model = other()
    before = everything(model)
    with pytest.raises(sesurgery.StalePlanError, match="plan again"):
        sesurgery.apply(model, made, inplace=True, input_size=SIZE)
    assert everything(model) == before


def test_finished_plan_takes_no_options() -> None:
    made = sesurgery.plan(small_resnet(), "standard", input_size=SIZE)
    with pytest.raises(sesurgery.InputError, match="plan again"):
        sesurgery.apply(small_resnet(), made, reduction=8, input_size=SIZE)


# Once more.


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
    assert {edit.route for edit in surgery.plan.edits} == {"socket", "graph"}
    surgery.model(torch.randn(2, *SIZE)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in surgery.new_parameters())


# Methods of the model.


def test_operated_resnet50_behaves_as_the_native_one() -> None:
    native = networks.lively(timm.create_model("seresnet50"))
    model = sesurgery.apply(timm.create_model("resnet50"), "standard", inplace=True, input_size=(3, 64, 64)).model
    model.load_state_dict(native.state_dict(), strict=True)
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.forward_features(image), native.forward_features(image))
        ours, theirs = (net.forward_intermediates(image, indices=[1, 3]) for net in (model, native))
        assert torch.equal(ours[0], theirs[0])
        assert all(torch.equal(one, two) for one, two in zip(ours[1], theirs[1], strict=True))
        for net in (model, native):
            torch.manual_seed(1)
            net.reset_classifier(7)
        assert model(image).shape == (1, 7)
        assert torch.equal(model(image), native(image))
    for net in (model, native):
        net.set_grad_checkpointing(True)
        net.train()
        net(image.expand(2, -1, -1, -1)).sum().backward()
    assert model.grad_checkpointing
    ours, theirs = dict(model.named_parameters()), dict(native.named_parameters())
    assert all(torch.equal(ours[name].grad, parameter.grad) for name, parameter in theirs.items())
