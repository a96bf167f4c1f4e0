"""Damaged files and hostile records are refused; no code of theirs runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import fuzz_artifacts, fuzz_recipes
from safetensors.torch import load_file, save_file
from saved import RECORD, rewrite, tiny

import sesurgery
from sesurgery.artifact import folder as artifact_files
from sesurgery.artifact.record import MAX_BYTES
from sesurgery.errors import ArtifactError, InputError, SurgeryError


def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "a"
    sesurgery.save(tiny(), folder)
    return folder


def edit(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for each in record["operations"][0]["plan"]["edits"]:
            each[field] = value

    return change


def layer(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for each in record["operations"][0]["plan"]["edits"]:
            each["change"]["layer"].update(fields)

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda r: r.update(extra=1), "extra"),
    "newer format": (lambda r: r.update(version=2), "upgrade"),
    "other format": (lambda r: r.update(format="zip"), "no record"),
    "no weights": (lambda r: r.update(weights={}), "weights"),
    "weights of a foreign file": (
        lambda r: r["weights"].update({"../../etc/passwd": r["weights"]["model"]}),
        "weights",
    ),
    "no digest": (lambda r: r["weights"]["model"].update(sha256="x"), "sha256"),
    "no operations": (lambda r: r.update(operations=[]), "operations"),
    "plan of text": (lambda r: r["operations"][0].update(plan="x"), "plan"),
    "plan without edits": (lambda r: r["operations"][0]["plan"].update(edits=[]), "changes nothing"),
    "plan of numbers": (lambda r: r["operations"][0]["plan"].update(edits=[1, 2]), "no plan"),
    "edit of another kind": (edit("action", "__import__"), "actions"),
    "edit with a number for a path": (edit("path", 7), "path: Input should be a valid string"),
    "code in a name": (edit("path", "layer1.0.se(x);import_os"), "no name of a new module"),
    "a line in a name": (edit("path", "layer1.0.se\n    raise"), "no path of a module"),
    "dunder name": (edit("path", "layer1.0.__class__"), "no name of a new module"),
    "name of a method": (edit("path", "layer1.0.forward"), "no name of a new module"),
    "keyword name": (edit("path", "layer1.0.class"), "no name of a new module"),
    "traversal in a host": (edit("host", "../../etc"), "no path of a module|no such module"),
    "host that is not there": (edit("host", "layer9.0"), "no such module"),
    "unknown node": (layer(module="os.system"), "unknown module"),
    "huge channels": (layer(shape=[1, 10**15, 8, 8]), "cannot be repeated|asks for"),
    "huge reduction": (
        layer(shape=[1, 32, 8, 8], options={"reduction": 10**400}),
        "cannot be repeated",
    ),
    "wrong axis": (layer(axis=99), "cannot be repeated"),
    "axis of text": (layer(axis="1"), "layer.axis: Input should be a valid integer"),
    "options of the edit": (edit("options", {}), "options: Unexpected keyword argument"),
    "no change": (edit("change", {}), "no plan"),
    "change of no kind": (edit("change", {"kind": "os.system"}), "no plan.*'os.system'"),
    "gate with code for a name": (
        lambda r: r["operations"][0]["plan"]["edits"][0].update(
            path='layer1.0.x");import_os;("',
            change={
                "kind": "bypass gate",
                "product": "mul",
                "layer": r["operations"][0]["plan"]["edits"][0]["change"]["layer"],
            },
        ),
        "no name of a new module",
    ),
    "forged fingerprint": (edit("fingerprint", "0"), "cannot be repeated"),
    "input of nothing": (lambda r: r["operations"][0].update(input={"tuple": "x"}), "input"),
    "huge input": (
        lambda r: r["operations"][0].update(input={"tuple": [{"tensor": [10**30], "dtype": "float32"}]}),
        "input",
    ),
    "base by file": (lambda r: r["base"].update(reference="evil.py:run"), "trust_code"),
    "base by import": (lambda r: r["base"].update(reference="os:system", args={"command": "true"}), "trust_code"),
    "base by hub": (lambda r: r["base"].update(reference="hf-hub:x/y"), "would fetch"),
    "base that is not there": (lambda r: r["base"].update(reference="timm:resnet1800"), "resnet"),
    "base with weights": (lambda r: r["base"].update(args={"checkpoint_path": "/etc/passwd"}), "would load weights"),
    "base with pretrained": (lambda r: r["base"].update(args={"pretrained": True}), "would load weights"),
    "huge base": (lambda r: r["base"].update(args={"num_classes": 10**9}), "asks for a model"),
    "another base": (lambda r: r["base"].update(reference="timm:test_vit"), "cannot be repeated"),
    "other classes": (lambda r: r["base"].update(args={"num_classes": 3}), "do not fit"),
    "alias of nothing": (lambda r: r["aliases"]["model"].update(a="b"), "alias"),
    "alias over a tensor": (lambda r: r["aliases"]["model"].update({"fc.weight": "fc.bias"}), "alias"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused(tmp_path: Path, sound: Path, name: str) -> None:
    change, message = HOSTILE[name]
    folder = damaged(sound, tmp_path)
    rewrite(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        sesurgery.load(folder)
    assert caught.value.where
    assert "Traceback" not in str(caught.value)
    assert os.listdir(tmp_path) == ["damaged"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "truncated or no JSON"),
        (b"\xff\xfe", "truncated or no JSON"),
        (b"[" * 100_000, "nested too deep|no JSON"),
        (b'{"format": "sesurgery", "format": "x"}', "twice"),
        (b'{"format": NaN}', "no number"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "no JSON"),
        (b"[]", "no record"),
        (b'{"format": "sesurgery"}', "Field required"),
        (b"null", "no record"),
    ],
)
def test_texts_that_are_no_record(tmp_path: Path, sound: Path, text: bytes, message: str) -> None:
    folder = damaged(sound, tmp_path)
    (folder / RECORD).write_bytes(text)
    with pytest.raises(ArtifactError, match=message):
        sesurgery.load(folder)


def test_damaged_files_are_refused(tmp_path: Path, sound: Path) -> None:
    weights = (sound / "model.safetensors").read_bytes()
    flipped = bytearray(weights)
    flipped[len(flipped) // 2] ^= 1
    cases = [
        (weights[:-1], "truncated"),
        (weights + b"x", "not the file"),
        (flipped, "has changed"),
        (None, "is missing"),
    ]
    for number, (data, message) in enumerate(cases):
        folder = Path(shutil.copytree(sound, tmp_path / str(number)))
        (folder / "model.safetensors").unlink()
        if data is not None:
            (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(ArtifactError, match=message):
            sesurgery.load(folder)


@pytest.mark.parametrize("data", [b"", b"12345678", b"\x08" + b"\0" * 7 + b'{"a":1}}', b"\xff" * 64])
def test_weights_that_are_none_though_their_digest_fits(tmp_path: Path, sound: Path, data: bytes) -> None:
    folder = damaged(sound, tmp_path)
    (folder / "model.safetensors").write_bytes(data)
    facts = artifact_files.file_facts(folder / "model.safetensors").model_dump()
    rewrite(folder, lambda record: record["weights"].update(model=facts))
    with pytest.raises(ArtifactError, match="no safetensors file"):
        sesurgery.load(folder)


def test_weights_of_other_shapes_and_keys_are_refused(tmp_path: Path, sound: Path) -> None:
    whole = load_file(sound / "model.safetensors")
    changes: list[tuple[dict[str, torch.Tensor], str]] = [
        ({**whole, "fc.bias": torch.zeros(3)}, "another shape"),
        ({**whole, "fc.bias": torch.zeros(whole["fc.bias"].shape, dtype=torch.int64)}, "another shape"),
        ({**whole, "__class__": torch.zeros(1)}, "unexpected"),
        ({key: value for key, value in whole.items() if key != "fc.bias"}, "missing"),
    ]
    for number, (tensors, message) in enumerate(changes):
        folder = Path(shutil.copytree(sound, tmp_path / str(number)))
        save_file(tensors, folder / "model.safetensors")
        facts = artifact_files.file_facts(folder / "model.safetensors").model_dump()
        rewrite(folder, lambda record, facts=facts: record["weights"].update(model=facts))
        with pytest.raises(ArtifactError, match=message):
            sesurgery.load(folder)


def test_a_record_that_is_no_file_or_too_large(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)
    (folder / RECORD).unlink()
    os.mkfifo(folder / RECORD)
    with pytest.raises(ArtifactError, match=r"no surgery\.json"):
        sesurgery.load(folder)
    (folder / RECORD).unlink()
    with (folder / RECORD).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        sesurgery.load(folder)


def test_a_link_planted_in_a_folder_is_not_written_through(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in ("model.safetensors.new", "surgery.json.tmp", "surgery.json.new", "removed.safetensors.new"):
        (folder / name).symlink_to(outside)
    sesurgery.save(tiny("post"), folder)
    assert outside.read_text() == "mine"
    assert sorted(os.listdir(folder)) == ["model.safetensors", RECORD]


def test_other_versions_are_named_where_a_plan_no_longer_fits(tmp_path: Path, sound: Path) -> None:
    folder = damaged(sound, tmp_path)

    def change(record: dict[str, Any]) -> None:
        record["versions"]["timm"] = "0.0.1"
        edit("fingerprint", "0")(record)

    rewrite(folder, change)
    with pytest.raises(SurgeryError, match=r"timm 0\.0\.1, here"):
        sesurgery.load(folder)


# what benchmarks/fuzz.py and benchmarks/kill_save.py do at length
def test_a_short_fuzz_neither_crashes_nor_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for tally in (fuzz_recipes(150, 1), fuzz_artifacts(20, 1)):
        assert tally.crashes == []
        assert tally.leaks == []
        assert tally.refused.total() > tally.inputs / 3
    assert os.listdir(tmp_path) == []
