"""plan, apply and revert: what they change, what they leave alone, what they refuse."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from checks import everything, recipe, se
from networks import SIZE, Residual, lively, small_resnet
from torch import nn

import sesurgery


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


def test_operated_resnet50_behaves_as_the_native_one() -> None:
    native = lively(timm.create_model("seresnet50"))
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


class Embedding(nn.Module):
    """Has a weight of its own beside a layer, as the embeddings of vision transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.conv = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.token


def test_a_module_with_a_weight_of_its_own_is_no_convolution() -> None:
    model = nn.Sequential(Embedding(), Residual(8))
    plan = sesurgery.plan(model, "se-3x3", example_input=torch.randn(1, 3, 8, 8))
    assert [edit.host for edit in plan.edits] == ["0", "1", "1"]
