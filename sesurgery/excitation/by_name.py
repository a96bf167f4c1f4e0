"""``sesurgery gates``: a model by name, or from a folder, measured on a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sesurgery.artifact.names import holds_model
from sesurgery.artifact.save_load import load
from sesurgery.excitation.images import image_loader
from sesurgery.excitation.measure import gates
from sesurgery.excitation.result import Gates
from sesurgery.models import zoo
from sesurgery.models.checkpoints import load_into
from sesurgery.models.user_factories import called


def gates_by_name(
    model: str,
    data: Path | None,
    samples: int | None,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    input_size: Any = None,
    trust_code: bool = False,
    example: str | None = None,
) -> Gates:
    """What the gates of a model by name, or of an operated one from its folder, do on the images in ``data``.

    Raises:
        InputError: as ``gates``, ``load`` and ``image_loader``.
    """
    notes: tuple[str, ...] = ()
    if holds_model(model):
        body = load(model, weights=weights, trust_code=trust_code)
    else:
        body = zoo.create(zoo.resolve(model, model_args), pretrained=pretrained)
        notes = load_into(body, weights).notes if weights is not None else ()
        if weights is None and not pretrained:
            notes = ("the weights are new: --pretrained, --weights FILE or a folder has trained ones",)
    loader, classes = (None, None) if data is None else image_loader(data, body, input_size)
    given = None if example is None else called(example, "--example")
    if given is None and input_size is not None:
        given = zoo.example_input(body, None, input_size)
    result = gates(body, loader, classes=classes, samples=samples, example_input=given, name=model)
    return Gates(result.model, result.samples, result.classes, result.layers, (*notes, *result.notes))
