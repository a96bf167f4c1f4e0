"""Deltas: what they leave to their base comes back bit for bit, from that base and from no other."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import TINY, Net, Short
from safetensors.torch import load_file, save_file
from saved import assert_same, record_of, rewrite, shake, tiny
from torch import nn

import sesurgery
from sesurgery.errors import ArtifactError, InputError
from sesurgery.models import zoo

CASES = [
    (TINY, "standard"),
    (TINY, "se-3x3"),
    ("timm:test_efficientnet", "swap-attention"),
    ("timm:test_efficientnet", "shufflenet-k5"),
]


def base_of(reference: str) -> nn.Module:
    model = zoo.create(zoo.resolve(reference))
    shake(model, 5)
    return model


@pytest.mark.parametrize(("reference", "recipe"), CASES)
def test_a_delta_and_its_base_are_the_operated_model(tmp_path: Path, reference: str, recipe: str) -> None:
    base = base_of(reference)
    kept = copy.deepcopy(base)
    operated = sesurgery.apply(base, recipe).model
    with torch.no_grad():
        next(iter(operated.parameters())).add_(1)  # trained further
    sesurgery.save(operated, tmp_path / "a", delta=base)
    loaded = sesurgery.load(tmp_path / "a", model=copy.deepcopy(base))
    assert_same(operated, loaded)
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert next(iter(dict(operated.named_parameters()))) in stored
    old, new = base.state_dict(), operated.state_dict()
    same = {key for key in new if key in old and torch.equal(old[key], new[key])}
    assert stored.keys() == new.keys() - same
    sesurgery.save(loaded, tmp_path / "full")
    assert record_of(tmp_path / "full")["delta"] is None
    assert_same(loaded, sesurgery.load(tmp_path / "full", model=copy.deepcopy(kept)))
    first, second = sesurgery.revert(loaded).state_dict(), sesurgery.revert(operated).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_by_name_the_base_is_the_checkpoint(tmp_path: Path) -> None:
    save_file(base_of(TINY).state_dict(), tmp_path / "base.safetensors")
    surgery = sesurgery.apply(TINY, "standard", weights=tmp_path / "base.safetensors")
    sesurgery.save(surgery, tmp_path / "a", delta=True)
    loaded = sesurgery.load(tmp_path / "a", weights=tmp_path / "base.safetensors")
    assert_same(surgery.model, loaded)
    sesurgery.save(loaded, tmp_path / "b", delta=True)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match="does not hold the weights that it was made from"):
        sesurgery.load(tmp_path / "a")
    with pytest.raises(ArtifactError, match="does not hold its base"):
        sesurgery.revert_folder(tmp_path / "a", tmp_path / "c")


def test_another_base_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    base = base_of(TINY)
    sesurgery.save(sesurgery.apply(base, "standard"), tmp_path / "a", delta=base)
    other = copy.deepcopy(base)
    with torch.no_grad():
        dict(other.named_parameters())["layer2.0.conv1.weight"][0, 0, 0, 0] += 1e-3
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(
        ArtifactError, match=r"delta of another base: 1 of its tensors differ: layer2\.0\.conv1\.weight"
    ):
        sesurgery.load(tmp_path / "a", model=other)
    after = other.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    rewrite(tmp_path / "a", lambda record: record["delta"]["unchanged"].update({"nowhere.weight": "0" * 64}))
    with pytest.raises(ArtifactError, match=r"nowhere\.weight"):
        sesurgery.load(tmp_path / "a", model=copy.deepcopy(base))


def test_shared_tensors_come_back_shared(tmp_path: Path) -> None:
    base = Net(Short(), Short())
    base.blocks[1].conv.weight = base.blocks[0].conv.weight  # type: ignore[union-attr]
    operated = sesurgery.apply(base, "standard", example_input=torch.zeros(1, 3, 32, 32)).model
    sesurgery.save(operated, tmp_path / "a", delta=base)
    fresh = Net(Short(), Short())
    fresh.load_state_dict(base.state_dict())
    loaded = sesurgery.load(tmp_path / "a", model=fresh)
    assert_same(operated, loaded)


def test_bad_input(tmp_path: Path) -> None:
    surgery = tiny()
    with pytest.raises(InputError, match="nothing says which weights"):
        sesurgery.save(surgery, tmp_path / "a", delta=True)
    with pytest.raises(InputError, match="was operated itself"):
        sesurgery.save(surgery, tmp_path / "a", delta=surgery.model)
    sesurgery.save(surgery, tmp_path / "a")
    with pytest.raises(InputError, match="are not needed"):
        sesurgery.load(tmp_path / "a", weights=tmp_path / "x.safetensors")


def test_se_in_stage_4_of_resnet50_is_under_10_mb_and_loads_in_another_process(tmp_path: Path) -> None:
    base = zoo.create(zoo.resolve("timm:resnet50"))
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    surgery = sesurgery.apply("timm:resnet50", "standard", stages="4", weights=tmp_path / "base.safetensors")
    sesurgery.save(surgery, tmp_path / "a", delta=True)
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert size < 10e6
    torch.save(surgery.model.state_dict(), tmp_path / "wanted.pt")
    code = (
        "import sys, torch, sesurgery; model = sesurgery.load('a', weights='base.safetensors').state_dict();"
        "wanted = torch.load('wanted.pt'); print(all(torch.equal(model[key], wanted[key]) for key in wanted))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_a_model_that_was_cast_shares_what_its_base_has(tmp_path: Path) -> None:
    base = base_of(TINY)
    operated = sesurgery.apply(base, "standard").model.bfloat16()
    for given in (base, copy.deepcopy(base).bfloat16()):
        sesurgery.save(operated, tmp_path / "a", delta=given)
        stored = load_file(tmp_path / "a" / "model.safetensors")
        assert all(".se." in key for key in stored)
        for other in (base, copy.deepcopy(base).bfloat16()):
            assert_same(operated, sesurgery.load(tmp_path / "a", model=copy.deepcopy(other)))


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    base = base_of(TINY)
    operated = sesurgery.apply(base, "standard").model
    empty = zoo.create(zoo.resolve(TINY), device="meta")
    for given, problem in ((3, "a int is neither"), (base.state_dict(), "a OrderedDict is neither"), (empty, "meta")):
        with pytest.raises(InputError, match=problem):
            sesurgery.save(operated, tmp_path / "a", delta=given)  # type: ignore[arg-type]
