"""A folder of images as a loader: one folder a class, prepared as the model wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgery.errors import InputError, ModelError
from sesurgery.models import zoo
from sesurgery.words.text import reason

_BATCH = 32


def image_loader(folder: str | Path, model: nn.Module, size: Any = None) -> tuple[Any, tuple[str, ...]]:
    """A loader of the images in ``folder/CLASS/``, and the names of the classes. Images come shuffled, by a fixed seed.

    Size, crop, mean and deviation are those that timm's models declare; else the size that fits the model, and
    ImageNet's mean and deviation.

    Raises:
        InputError: there is no such folder, or it has no images in folders of classes.
    """
    from timm.data import create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    where = str(folder)
    if not Path(folder).is_dir():
        raise InputError("no such folder", where=where, remedy="name one that has a folder of images for each class")
    declared = dict(getattr(model, "pretrained_cfg", None) or {})
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=declared)
    if size is not None or not declared:
        first = zoo.example_input(model, None, size)[0]
        if not isinstance(first, torch.Tensor) or first.ndim != 4:
            raise ModelError("does not take images", where=type(model).__name__, remedy="measure it from Python")
        config["input_size"] = tuple(first.shape[1:])
    prepared: Any = create_transform(**config)
    try:
        images = ImageFolder(where, prepared, loader=_opened)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(reason(error), where=where, remedy="it wants a folder of images for each class") from error
    order = torch.Generator().manual_seed(0)
    return torch.utils.data.DataLoader(images, _BATCH, shuffle=True, generator=order), tuple(images.classes)


def _opened(path: Any) -> Any:
    """The image in a file. Raises ``InputError`` where it holds none that can be read."""
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"is no image that can be read ({reason(error)})", where=str(path)) from error
