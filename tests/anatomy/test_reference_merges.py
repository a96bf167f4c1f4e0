"""The anatomy finds at least the sums that a whole-model torch.fx trace shows (timm's own leaf lists, shapes on meta).

Default: the small families. ``pytest -m slow`` runs the others, and benchmarks/zoo.py every model.
"""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, Family
from reference import compare, reference, sums_of
from slow import marked_slow
from torch import nn

import sesurgery
from sesurgery.models import zoo

SLOW = (
    "densenet (torchvision)", "repghost", "googlenet (torchvision)", "mobilevit", "maxvit", "ghostnet",
    "levit", "davit",
)  # fmt: skip
# Whole-model traces that fail: the reference says nothing there, the anatomy does.
NO_REFERENCE = {"swin3d (torchvision)": 24, "hiera": 24, "gemma4_vit": 18}
# Whole, these look at values; the part that every sum of theirs lies in does not (RAFT has more in its updates).
_DETECTION = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd", "ssdlite")
FOLLOWED = {f"{name} (torchvision)": "backbone" for name in _DETECTION} | {"raft (torchvision)": "feature_encoder"}
# Sums in the reference that are none: two tables of relative positions, one of rows and one of columns.
SHIFTS = {"vit_sam": 3}


def quick(family: Family) -> bool:
    return not family.heavy and family.name not in SLOW


@pytest.mark.parametrize("family", marked_slow(FAMILIES, quick))
def test_every_sum_of_the_reference_is_found(family: Family) -> None:
    part = FOLLOWED.get(family.name, "")
    model = zoo.create(zoo.resolve(family.reference, family.args), device="meta").get_submodule(part)
    args = (torch.empty(1, *family.size, device="meta"),)
    found = compare(model, args, sums_of(sesurgery.inspect(model, example_input=args)))
    if family.name in NO_REFERENCE:
        assert found.reference is None
        assert found.found == NO_REFERENCE[family.name]
        return
    assert found.failure is None
    assert found.reference is not None
    assert len(found.missing) == SHIFTS.get(family.name, 0)
    assert all("no residual" in item for item in found.missing)
    assert found.found >= found.reference - len(found.missing)


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.place = nn.Parameter(torch.zeros(1, 4, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.place  # a position embedding
        x = torch.add(x, self.conv(x))
        x += x.relu()
        x = x + x.mean((2, 3), keepdim=True)  # a shift
        return x + x.shape[0]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.sums(self.sums(x))
        return y.add(x)


def test_reference_counts_sums_of_activations_only() -> None:
    known = reference(Twice().to("meta"), (torch.empty(1, 4, 8, 8, device="meta"),))
    assert known.failure is None
    assert known.sums == {"sums": 2, "": 1}
    assert known.spreading == {"sums": ("(1, 4, 8, 8) + (1, 4, 1, 1)",)}


def test_shortfall_is_listed_with_both_counts() -> None:
    model, args = Twice().to("meta"), (torch.empty(1, 4, 8, 8, device="meta"),)
    found = compare(model, args, {"sums": 1, "": 1})
    assert (found.reference, found.found) == (3, 2)
    assert found.missing == (
        "sums: 2 sums of equal shapes, 1 found",
        "sums: (1, 4, 8, 8) + (1, 4, 1, 1) is broadcast: a shift, no residual",
    )
    ours = compare(model, args, sums_of(sesurgery.inspect(Twice(), input_size=(4, 8, 8))))
    assert (ours.reference, ours.found, len(ours.missing)) == (3, 3, 1)


def test_failed_trace_is_no_reference() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.relu() if x.shape[0] > 1 else x

    model = Branching().train()
    known = reference(model, (torch.empty(1, 3, device="meta"),))
    assert known.failure is not None
    assert "control flow" in known.failure
    assert model.training
