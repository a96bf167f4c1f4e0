"""What the plans of a model do not tell cannot be loaded, so it is not saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import Residual, conv
from torch import nn

import sesurgery
from sesurgery.errors import ArtifactError

IMAGE = torch.randn(2, 8, 4, 4)


def net() -> nn.Sequential:
    return nn.Sequential(conv(), Residual(8), Residual(8)).eval()


def operate_on_a_part(model: nn.Sequential) -> None:
    sesurgery.apply(model[1], "post", example_input=IMAGE, inplace=True)


def revert_a_part(model: nn.Sequential) -> None:
    sesurgery.revert(model[1])


def exchange_a_host(model: nn.Sequential) -> None:
    model[2] = Residual(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (operate_on_a_part, r"1\.se_post came after the operation"),
        (revert_a_part, r"1, 1\.se went after the operation"),
        (exchange_a_host, r"2, 2\.se went after the operation"),
    ],
)
def test_what_changed_since_the_operation_is_not_saved(
    change: Callable[[nn.Sequential], None], message: str, tmp_path: Path
) -> None:
    model = net()
    sesurgery.apply(model, "standard", example_input=IMAGE, inplace=True)
    change(model)
    with pytest.raises(ArtifactError, match=message):
        sesurgery.save(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    sesurgery.revert(model)
    assert list(model.state_dict()) == list(net().state_dict())


def test_a_part_that_was_operated_on_before_is_loaded_into_one_that_was(tmp_path: Path) -> None:
    def with_an_operated_part() -> nn.Sequential:
        model = net()
        sesurgery.apply(model[1], "post", example_input=IMAGE, inplace=True)
        return model

    model = with_an_operated_part()
    sesurgery.apply(model, "pre", example_input=IMAGE, inplace=True)
    sesurgery.save(model, tmp_path / "folder")
    loaded = sesurgery.load(tmp_path / "folder", model=with_an_operated_part())
    assert torch.equal(loaded(IMAGE), model(IMAGE))


def test_a_new_head_is_no_hindrance(tmp_path: Path) -> None:
    def headed() -> nn.Sequential:
        return nn.Sequential(net(), nn.Conv2d(8, 3, 1)).eval()

    model = sesurgery.apply(headed(), "standard", example_input=IMAGE).model
    sesurgery.save(model, tmp_path / "folder")
    assert torch.equal(sesurgery.load(tmp_path / "folder", model=headed())(IMAGE), model(IMAGE))
