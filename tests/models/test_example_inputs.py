"""Models to inputs: what a model is called with where nobody says it, and the sizes that users give."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sesurgery
from sesurgery.cli.app import app
from sesurgery.errors import InputError
from sesurgery.models.input_size import read_input_size
from sesurgery.models.zoo import ModelSpec, candidate_inputs, create, example_input, resolve


def shapes(args: tuple[object, ...]) -> list[object]:
    return [tuple(a.shape) if isinstance(a, torch.Tensor) else [tuple(t.shape) for t in a] for a in args]  # type: ignore[attr-defined]


def first_that_runs(model: nn.Module, spec: ModelSpec | None = None) -> list[object]:
    for args in candidate_inputs(model, spec, device="cpu"):
        try:
            with torch.no_grad():
                model.eval()(*args)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            continue
        return shapes(args)
    raise AssertionError("no candidate runs")


@pytest.mark.parametrize(
    ("reference", "size"),
    [
        ("resnet18", (3, 224, 224)),
        ("vit_tiny_patch16_384", (3, 384, 384)),
        ("swinv2_tiny_window8_256", (3, 256, 256)),
        ("mobilevit_xxs", (3, 256, 256)),
        ("tresnet_m", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:googlenet", (3, 224, 224)),
        ("torchvision:regnet_y_400mf", (3, 224, 224)),
        ("torchvision:vit_b_16", (3, 224, 224)),
        ("torchvision:swin_v2_t", (3, 256, 256)),
        ("torchvision:lraspp_mobilenet_v3_large", (3, 224, 224)),
        ("torchvision:quantized_mobilenet_v2", (3, 224, 224)),
        ("torchvision:r3d_18", (3, 16, 112, 112)),
        ("torchvision:s3d", (3, 16, 224, 224)),
    ],
)
def test_meta_models_run_on_their_first_input(reference: str, size: tuple[int, ...]) -> None:
    spec = resolve(reference)
    model = create(spec, device="meta", pretrained=True)
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    args = example_input(model, spec)
    assert shapes(args) == [(1, *size)]
    model(*args)


def test_optical_flow_takes_two_images() -> None:
    spec = resolve("torchvision:raft_small")
    args = example_input(create(spec, device="meta"), spec)
    assert shapes(args) == [(1, 3, 224, 224)] * 2


def test_detection_takes_a_list_of_images() -> None:
    spec = resolve("torchvision:ssdlite320_mobilenet_v3_large")
    model = create(spec)
    args = example_input(model, spec, device="cpu")
    assert shapes(args) == [[(3, 320, 320)]]
    assert set(model(*args)[0]) == {"boxes", "scores", "labels"}
    assert shapes(example_input(model, spec, (3, 64, 96))) == [[(3, 64, 96)]]


@pytest.mark.parametrize(
    ("reference", "args", "size"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96}, (3, 96, 96)),
        ("vit_tiny_patch16_224", {"img_size": [64, 96], "in_chans": 1}, (1, 64, 96)),
        ("resnet18", {"in_chans": 5}, (5, 224, 224)),
    ],
)
def test_inputs_follow_the_model_arguments(reference: str, args: dict[str, object], size: tuple[int, ...]) -> None:
    spec = resolve(reference, args)
    model = create(spec, device="meta")
    for known in (spec, None):
        given = example_input(model, known)
        assert shapes(given) == [(1, *size)]
        model(*given)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layer(left) + self.layer(right) * scale


class HeadFirst(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 28 * 28, 10)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Conv2d(5, 2, 3), nn.ReLU()), [(1, 5, 224, 224)]),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 62 * 62, 3)), [(1, 1, 64, 64)]),
        (nn.Sequential(nn.Conv3d(2, 2, 3)), [(1, 2, 16, 112, 112)]),
        (nn.Sequential(nn.Conv1d(6, 2, 3)), [(1, 6, 256)]),
        (nn.Sequential(nn.Linear(12, 4)), [(1, 12)]),
        (nn.Sequential(nn.Linear(12, 4), nn.LayerNorm((16, 4))), [(1, 16, 12)]),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), [(1, 16)]),
        (nn.ReLU(), [(1, 3, 224, 224)]),
        (Two(), [(1, 3, 224, 224)] * 2),
        (HeadFirst(), [(1, 1, 28, 28)]),
    ],
)
def test_inputs_of_modules_of_ones_own(model: nn.Module, expected: list[object]) -> None:
    assert first_that_runs(model) == expected


def test_inputs_have_the_models_dtype_and_leave_the_random_state() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3)).double()
    state = torch.get_rng_state()
    (first,), (again,) = example_input(model, device="cpu"), example_input(model, device="cpu")
    assert first.dtype == torch.float64
    assert torch.equal(first, again)
    assert first.std() > 0
    assert torch.equal(torch.get_rng_state(), state)
    (tokens,) = example_input(nn.Embedding(3, 3))
    assert tokens.dtype == torch.long
    assert tokens.is_meta


def test_a_given_size_is_the_only_candidate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    assert [shapes(args) for args in candidate_inputs(model, None, (3, 40, 48))] == [[(1, 3, 40, 48)]]
    (tokens,) = example_input(nn.Embedding(3, 3), None, (7,))
    assert (tokens.shape, tokens.dtype) == ((1, 7), torch.long)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("3,224,224", (3, 224, 224)),
        (" 3, 64 ,64 ", (3, 64, 64)),
        ("3x16x112x112", (3, 16, 112, 112)),
        ("192,256", (3, 192, 256)),
        ("7", (3, 7, 7)),
        ((7,), (7,)),
        ([3, 224], (3, 224)),
    ],
)
def test_input_sizes_as_people_write_them(given: str | tuple[int, ...], size: tuple[int, ...]) -> None:
    assert read_input_size(given) == size


def test_an_input_size_means_the_same_in_python_and_on_the_command_line() -> None:
    plan = sesurgery.plan("resnet18", "standard", input_size="224")
    assert plan.before == sesurgery.plan("resnet18", "standard", input_size=(3, 224, 224)).before
    result = CliRunner().invoke(app, ["preview", "resnet18", "--recipe", "standard", "--input-size", "224", "--json"])
    assert plan.before is not None
    assert json.loads(result.stdout)["before"]["macs"] == plan.before.macs
    wanted = "3 is no height; write C,H,W such as 3,224,224, or H,W such as 192,256"
    with pytest.raises(InputError, match=wanted):
        sesurgery.plan("resnet18", "standard", input_size="3,224")
    refused = CliRunner().invoke(app, ["preview", "resnet18", "--recipe", "standard", "--input-size", "3,224"])
    assert refused.exit_code == 2
    assert f"--input-size 3,224: two numbers are height and width, and {wanted}" in refused.stderr
    with pytest.raises(InputError, match="such as 1,320,320, or"):
        read_input_size("1,320")


@pytest.mark.parametrize(
    "text",
    ["", ",", "3,,224", "3,0,224", "3,-1,224", "3,224", "a", "3,2.5", "nan", "1e3", "²", "100000,100000", "9" * 5000],
)
def test_bad_input_sizes(text: str) -> None:
    with pytest.raises(InputError, match="such as 3,224,224"):
        read_input_size(text)


@pytest.mark.parametrize("size", [(), (3, 0), (3, -1), (10**6, 10**6), (3.0, 2)])
def test_bad_input_sizes_as_numbers(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="such as 3,224,224"):
        example_input(nn.ReLU(), None, size)
