"""Operated models of transformers: saved, loaded, trained by ``Trainer`` and resumed; the plain way is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import lively
from torch import nn

import sesurgery
from sesurgery.errors import ArtifactError, InputError
from sesurgery.integrations.transformers import from_pretrained

transformers = pytest.importorskip("transformers")
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGE = torch.rand(2, 3, 32, 32)


def logits(model: Any) -> torch.Tensor:
    """Of a copy: weights that lie elsewhere in memory, as those from a file do, may be summed in another order."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(IMAGE).logits


def plain() -> Any:
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic", "num_labels": 3}
    return ResNetForImageClassification(ResNetConfig(**small)).eval()


@pytest.fixture
def operated() -> Any:
    torch.manual_seed(0)
    return lively(sesurgery.apply(plain(), "standard", example_input=IMAGE[:1]).model).eval()


def test_what_is_saved_is_loaded_with_its_layers(operated: Any, tmp_path: Path) -> None:
    operated.save_pretrained(tmp_path)
    assert not hasattr(operated.config, "sesurgery")
    wanted = operated.state_dict()
    for kind in (None, ResNetForImageClassification):
        again = from_pretrained(tmp_path, kind)
        assert type(again) is ResNetForImageClassification
        assert again.state_dict().keys() == wanted.keys()
        assert all(torch.equal(value, wanted[key]) for key, value in again.state_dict().items())
        assert torch.equal(logits(again), logits(operated))
    assert [plan.recipe for plan in sesurgery.plans_of(again)] == [plan.recipe for plan in sesurgery.plans_of(operated)]
    assert from_pretrained(tmp_path, dtype=torch.bfloat16).dtype is torch.bfloat16
    assert sesurgery.revert(again).state_dict().keys() == plain().state_dict().keys()


def test_a_loaded_model_is_saved_again(operated: Any, tmp_path: Path) -> None:
    operated.save_pretrained(tmp_path / "a")
    from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again = from_pretrained(tmp_path / "b")
    assert torch.equal(logits(again), logits(operated))
    sesurgery.revert(again).save_pretrained(tmp_path / "c")
    assert type(ResNetForImageClassification.from_pretrained(tmp_path / "c")) is ResNetForImageClassification


@pytest.mark.parametrize("kind", [AutoModelForImageClassification, ResNetForImageClassification])
def test_the_plain_way_is_refused(kind: Any, operated: Any, tmp_path: Path) -> None:
    operated.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"was operated: load it with sesurgery\.integrations\.transformers"):
        kind.from_pretrained(tmp_path)


def test_a_part_that_was_operated_is_repeated(tmp_path: Path) -> None:
    model = plain()
    sesurgery.apply(model.resnet.encoder, "standard", example_input=torch.zeros(1, 8, 8, 8), inplace=True)
    lively(model).save_pretrained(tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_is_that_of_the_layers_too(operated: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    operated.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path, dtype=dtype)
    assert {each.dtype for each in again.parameters()} == {dtype}


def test_a_forward_that_looks_at_values_is_operated_again(tmp_path: Path) -> None:
    """transformers builds on meta, where such a forward cannot run."""
    body = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 4, "num_labels": 3}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": body}
    model = transformers.DetrForObjectDetection(transformers.DetrConfig(**own, **sizes, **heads)).eval()
    operated = sesurgery.apply(model, "standard", example_input=torch.zeros(1, 3, 64, 64)).model
    operated.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert sesurgery.plans_of(again)[0].edits == sesurgery.plans_of(operated)[0].edits != []


def test_layers_of_a_wrapper_that_went_are_not_saved_without_a_word(tmp_path: Path) -> None:
    model = plain()
    sesurgery.apply(nn.Sequential(model), "standard", example_input=torch.zeros(1, 3, 64, 64), inplace=True)
    with pytest.raises(ArtifactError, match="a larger model, which held it; operate on this model itself"):
        model.save_pretrained(tmp_path)


def test_bad_input(operated: Any, tmp_path: Path) -> None:
    plain().save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="no operated model was saved here"):
        from_pretrained(tmp_path / "plain")
    operated.save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match="kind: a str is no class"):
        from_pretrained(tmp_path / "a", kind="ResNetForImageClassification")  # type: ignore[arg-type]
    file = tmp_path / "a" / "config.json"
    said = json.loads(file.read_text())
    for wrong in (
        [],
        {"": {"operations": []}},
        {"": {"operations": [{"plan": {}}]}},
        {"nothing": said["sesurgery"][""]},
    ):
        file.write_text(json.dumps({**said, "sesurgery": wrong}))
        with pytest.raises(ArtifactError):
            from_pretrained(tmp_path / "a")
    file.write_text(json.dumps({**said, "architectures": ["Unheard"]}))
    with pytest.raises(InputError, match='no class "Unheard"'):
        from_pretrained(tmp_path / "a")


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": torch.full((3, 32, 32), float(index)), "labels": index % 3}


def training(model: nn.Module, folder: Path, epochs: int) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return transformers.Trainer(model, arguments, train_dataset=Images(), eval_dataset=Images())


def test_trainer_saves_resumes_and_takes_the_best(operated: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    paths = [edit.path for edit in sesurgery.plans_of(operated)[0].edits]
    before = {path: operated.get_submodule(path).fc1.weight.detach().clone() for path in paths}
    training(operated, tmp_path, 1).train()
    assert not any(torch.equal(operated.get_submodule(path).fc1.weight, old) for path, old in before.items())
    saved = from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(value, operated.state_dict()[key]) for key, value in saved.state_dict().items())
    further = training(saved, tmp_path, 2)
    further.train(resume_from_checkpoint=True)
    assert further.state.global_step == 4
    further.save_model(str(tmp_path / "last"))
    assert torch.equal(logits(from_pretrained(tmp_path / "last")), logits(saved))


LOADING = """
import sys, torch
sys.modules["sesurgery"] = None
torch.set_num_threads(1)
from transformers import AutoModelForImageClassification, ResNetForImageClassification
image, wanted, state = torch.load("known.pt")
model = AutoModelForImageClassification.from_pretrained("hub", trust_remote_code=True)
model.save_pretrained("again")
again = AutoModelForImageClassification.from_pretrained("again", trust_remote_code=True)
for each in (model, again):
    assert all(torch.equal(each.state_dict()[key], state[key]) for key in state)
    assert torch.allclose(each(image, labels=torch.tensor([0, 1])).logits, wanted, atol=1e-6)
try:
    ResNetForImageClassification.from_pretrained("hub")
except ValueError as error:
    print("operated: load it with AutoModelForImageClassification" in str(error))
"""


def test_ejected_it_is_loaded_without_us(operated: Any, tmp_path: Path) -> None:
    folder = sesurgery.eject(operated, tmp_path / "hub", hf=True, example_input=IMAGE)
    assert (
        "class EjectedResNetForImageClassification(ResNetForImageClassification)" in (folder / "model.py").read_text()
    )
    torch.save((IMAGE, operated(IMAGE).logits.detach(), operated.state_dict()), tmp_path / "known.pt")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", LOADING]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr[-3000:]
    check = [sys.executable, str(folder / "check.py")]
    done = subprocess.run(check, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith("equal: "), done.stderr[-3000:]


def test_trainer_does_not_resume_into_a_model_without_the_layers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    operated = sesurgery.apply(plain(), "standard", module="simam", example_input=torch.zeros(1, 3, 64, 64)).model
    training(operated, tmp_path, 1).train()
    with pytest.raises(ArtifactError, match="its model was operated in another way than the one that is to be trained"):
        training(plain(), tmp_path, 2).train(resume_from_checkpoint=True)
    training(operated, tmp_path, 2).train(resume_from_checkpoint=True)
