"""One plausible input for a model's forward, found from what the model says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.models.input_size import Shape, read_input_size

FRAMES = 16  # of a video, where nothing says how many
DETECTION_SIZE = 320
IMAGE_SIZES = (224, 64, 32, 28, 256, 384, 512, 96, 16, 8)
VIDEO_SIZES = (112, 224, 64, 32)
LENGTHS = (256, 1024, 128, 64, 16000, 16)


def candidates(
    model: nn.Module,
    declared: Sequence[Shape] = (),
    input_size: Sequence[int] | str | None = None,
    device: str | torch.device = "meta",
    args: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Positional arguments for one forward of ``model`` with a batch of 1, the most plausible first.

    Args:
        declared: sizes of one sample that the model's library publishes; tried before what the layers suggest.
        input_size: the size of one sample, where the user gave it: nothing else is tried.
        args: the arguments the model was made with (``img_size``, ``in_chans``).
    """
    detector = _of(type(model), "torchvision.models.detection")
    for size, tokens in _sizes(model, declared, input_size, args or {}, detector):
        sample = _sample(model, size, tokens, torch.device(device))
        yield ([sample[0]],) if detector else (sample,) * _arity(model)


def _sizes(
    model: nn.Module,
    declared: Sequence[Shape],
    input_size: Sequence[int] | str | None,
    args: Mapping[str, Any],
    detector: bool,
) -> Iterator[tuple[Shape, bool]]:
    """Sizes of one sample, each once, and whether its values are indices into an embedding."""
    layers = _first_layers(model)
    if input_size is not None:
        size = read_input_size(input_size)
        yield size, len(size) == 1 and bool(layers) and isinstance(layers[0], nn.Embedding)
        return
    sizes: list[tuple[Shape, bool]] = [(size, False) for size in _own_sizes(model, args)]
    sizes += [(size, False) for size in declared]
    if detector:
        sizes.append(((3, DETECTION_SIZE, DETECTION_SIZE), False))
    sizes += [(size, isinstance(layer, nn.Embedding)) for layer in layers for size in _layer_sizes(layer)]
    sizes += [((3, size, size), False) for size in IMAGE_SIZES]
    yield from dict.fromkeys(sizes)


def _own_sizes(model: nn.Module, args: Mapping[str, Any]) -> Iterator[Shape]:
    """Sizes that the model, or the arguments it was made with, declare."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    published = tuple(config.get("input_size") or ()) if isinstance(config, Mapping) else ()
    if isinstance(args.get("input_size"), list | tuple):
        yield tuple(args["input_size"])
    patches = getattr(model, "patch_embed", None)
    image = next(filter(None, (_square(v) for v in _image_sizes(model, patches, args))), None)
    if image is None and len(published) < 2:
        return
    channels = args.get("in_chans") or getattr(model, "in_chans", None) or (published[0] if published else 3)
    if isinstance(channels, int):
        yield (channels, *(image or published[1:]))
    # A model whose stem folds space into channels declares one count and convolves another: both are offered.
    if published:
        yield published


def _image_sizes(model: nn.Module, patches: Any, args: Mapping[str, Any]) -> Iterator[Any]:
    yield args.get("img_size")
    yield args.get("image_size")
    yield getattr(patches, "img_size", None)
    yield getattr(model, "img_size", None)
    yield getattr(model, "image_size", None)


def _square(value: Any) -> Shape | None:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value):
        return (value[0], value[1])
    return None


_LAYERS = (nn.Conv3d, nn.Conv2d, nn.Conv1d, nn.Embedding, nn.Linear)


def _first_layers(model: nn.Module) -> list[nn.Module]:
    """The first layer of each kind that takes an input, in order of registration."""
    first: dict[type[nn.Module], nn.Module] = {}
    for module in model.modules():
        kind = next((kind for kind in _LAYERS if isinstance(module, kind)), None)
        if kind is not None:
            first.setdefault(kind, module)
    return list(first.values())


def _layer_sizes(layer: nn.Module) -> Iterator[Shape]:
    if isinstance(layer, nn.Embedding):
        yield from ((16,), (64,), (128,))
    elif isinstance(layer, nn.Linear):
        yield from ((layer.in_features,), (16, layer.in_features), (196, layer.in_features))
    elif isinstance(layer, nn.Conv3d):
        yield from ((layer.in_channels or 3, FRAMES, size, size) for size in VIDEO_SIZES)
    elif isinstance(layer, nn.Conv2d):
        yield from ((layer.in_channels or 3, size, size) for size in IMAGE_SIZES)
    elif isinstance(layer, nn.Conv1d):
        yield from ((layer.in_channels or 1, size) for size in LENGTHS)


def _sample(model: nn.Module, size: Shape, tokens: bool, device: torch.device) -> Tensor:
    """A batch of one; values come from a generator of its own, so that the caller's random state stays as it is."""
    shape = (1, *size)
    if tokens:
        return torch.zeros(shape, dtype=torch.long, device=device)
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if device.type == "meta":
        return torch.empty(shape, dtype=kind, device=device)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(device=device, dtype=kind)


def _arity(model: nn.Module) -> int:
    """How many positional arguments forward insists on; at least one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters))


def _of(cls: type, package: str) -> bool:
    return any(base.__module__.startswith(package + ".") for base in cls.__mro__)
