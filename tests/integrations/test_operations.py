"""Operations as plain data in other libraries' files: told, repeated, and refused where they are not sound."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from fuzzing import fuzz_operations
from networks import TINY
from torch import nn

import sesurgery
from sesurgery.errors import ArtifactError
from sesurgery.integrations.operations import new_layers, operations_in, repeat_operations
from sesurgery.models import zoo


def both() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({name: zoo.create(zoo.resolve(TINY)) for name in ("student", "teacher")})


def test_what_was_done_to_parts_is_told_and_repeated() -> None:
    model, fresh = both(), both()
    sesurgery.apply(model["student"], "standard", input_size="64", inplace=True)
    sesurgery.apply(model["student"], "se-3x3", input_size="64", inplace=True)
    sesurgery.apply(model["teacher"], "standard", stages="4", input_size="64", inplace=True)
    said = json.loads(json.dumps(operations_in(model)))
    assert list(said) == ["student", "teacher"]
    repeat_operations(fresh, said, "a file")
    assert fresh.state_dict().keys() == model.state_dict().keys()
    fresh.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for name, part in model.items():
            assert torch.equal(fresh[name].eval()(image), part.eval()(image))
    assert new_layers(fresh) == new_layers(model)
    assert new_layers(fresh)[0].startswith("student.")


def test_a_part_that_is_refused_leaves_the_others_as_they_were() -> None:
    model, fresh = both(), both()
    sesurgery.apply(model["student"], "standard", input_size="64", inplace=True)
    said = operations_in(model)
    with pytest.raises(ArtifactError):
        repeat_operations(fresh, {**said, "nowhere": copy.deepcopy(said["student"])}, "a file")
    assert operations_in(fresh) == {}
    assert fresh.state_dict().keys() == both().state_dict().keys()


def test_a_model_that_was_changed_since_is_not_told() -> None:
    model = sesurgery.apply(TINY, "standard").model
    sesurgery.apply(model.layer1, "se-3x3", example_input=torch.zeros(1, 32, 16, 16), inplace=True)
    with pytest.raises(ArtifactError, match="after the operation"):
        operations_in(model)


def test_hostile_data_ends_in_a_message() -> None:
    tally = fuzz_operations(30, 0)
    assert tally.crashes == []
    assert tally.inputs == 30
    assert sum(tally.refused.values()) > 10


class LooksAtValues(nn.Module):
    """A residual block with a bias, whose forward asks what is in its input, which on meta nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(self.first(x).relu())
        return x + branch if torch.isfinite(x).all() else x - branch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_repeated_where_others_build_on_meta_and_in_another_precision(dtype: torch.dtype) -> None:
    example = torch.zeros(1, 4, 8, 8)
    said = operations_in(sesurgery.apply(LooksAtValues(), "standard", example_input=example).model)
    with torch.device("meta"):
        fresh = LooksAtValues().to(dtype)
        repeat_operations(fresh, said, "a file")
    assert [edit.path for edit in sesurgery.plans_of(fresh)[0].edits] == ["se"]
    assert {(each.dtype, each.device.type) for each in fresh.parameters()} == {(dtype, "meta")}


def test_a_part_out_of_an_operated_model_is_not_told_of() -> None:
    whole = nn.Sequential(LooksAtValues())
    sesurgery.apply(whole, "standard", example_input=torch.zeros(1, 4, 8, 8), inplace=True)
    with pytest.raises(ArtifactError, match="a larger model, which held it; operate on this model itself"):
        operations_in(whole[0])


def test_what_the_file_tells_of_and_the_model_lacks_is_named() -> None:
    model = both()
    sesurgery.apply(model["student"], "standard", input_size="64", inplace=True)
    said = operations_in(model)
    with pytest.raises(ArtifactError, match="tells of an operation on student, which this model does not have; build"):
        repeat_operations(model["teacher"], said, "a file")
    with pytest.raises(ArtifactError, match=r"\(operations: List should have at least 1 item"):
        repeat_operations(both(), {"student": {"operations": []}}, "a file")
