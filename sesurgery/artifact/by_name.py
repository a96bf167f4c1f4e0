"""What a command works on: a model by name, or the one that a folder holds, and the input it is looked at with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sesurgery.artifact.names import holds_model
from sesurgery.artifact.save_load import input_of, load
from sesurgery.models.user_factories import called

Step = Callable[[str, int, int], None]


def subject(
    model: str,
    asked: Mapping[str, Any],
    step: Step,
    *,
    example: str | None = None,
    weights: Path | None = None,
    trust_code: bool = False,
) -> tuple[str | nn.Module, dict[str, Any]]:
    """The model and the keyword arguments for ``plan``, ``apply`` and the like.

    Args:
        asked: keyword arguments, ``model_args`` among them.
        example: a function of the user's that gives an input: ``FILE.py:NAME``.
        weights: the base's, where the folder is a delta.

    Returns:
        The name as it is, or the operated model that lies in the folder; what it was saved with is its input.
    """
    given = {} if example is None else {"example_input": called(example, "--example")}
    if not holds_model(model):
        return model, {**asked, **given}
    step("loading the folder", 0, 0)
    body = load(model, weights=weights, trust_code=trust_code)
    if not given and asked.get("input_size") is None:
        given = {"example_input": input_of(body)}
    return body, {**asked, **given, "model_args": None}
