"""Operated models of transformers: saved as always, and loaded with their layers.

``save_pretrained`` of an operated model (``Trainer`` calls it too) writes what was done into ``config.json``, and a
sentence in the place of a file name, at which every plain ``from_pretrained`` stops instead of dropping the layers.
"""

from __future__ import annotations

import functools
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sesurgery.errors import ArtifactError, InputError
from sesurgery.integrations.operations import operations_in, recipes_in, repeat_operations

_SAID = "sesurgery"
# transformers takes the name of the weights' file from here, and says it where it is none.
_FILE = "transformers_weights"
_STOP = "this model was operated: load it with sesurgery.integrations.transformers.from_pretrained"


def from_pretrained(folder: str | Path, kind: type | None = None, **options: Any) -> Any:
    """Load what ``save_pretrained`` of an operated model wrote, all its layers with their weights.

    Args:
        folder: or the name of a repository on the hub.
        kind: the class of the model; the one that was saved where left out.
        **options: as ``kind.from_pretrained`` takes them: ``dtype``, ``device_map`` ...

    Raises:
        InputError: nothing was operated there, or the class is not one of transformers'.
        ArtifactError: what the folder says does not fit the model.
    """
    if kind is not None and not isinstance(kind, type):
        problem = f"a {type(kind).__name__} is no class"
        raise InputError(problem, where="kind", remedy="give one such as transformers.ResNetForImageClassification")
    transformers: Any = import_module("transformers")
    where = str(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    said = config.__dict__.pop(_SAID, None)
    config.__dict__.pop(_FILE, None)
    if said is None:
        remedy = "load it with its own class, and operate on it"
        raise InputError("no operated model was saved here", where=where, remedy=remedy)
    if kind is None:
        name = (config.architectures or [""])[0]
        kind = getattr(transformers, name, None)
        if not isinstance(kind, type):
            raise InputError(f'transformers has no class "{name}"', where=where, remedy="give it: kind=...")

    class Operated(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            repeat_operations(self, said, where)

    Operated.__name__, Operated.__module__ = kind.__name__, kind.__module__
    model: Any
    model, info = Operated.from_pretrained(folder, config=config, output_loading_info=True, **options)
    model.__class__ = kind
    lost = sorted({*info["missing_keys"], *info["unexpected_keys"], *(each[0] for each in info["mismatched_keys"])})
    if lost and not options.get("ignore_mismatched_sizes"):
        raise ArtifactError(f"its weights do not fit: {', '.join(lost[:3])}", where=where, remedy="save it again")
    return model


def guard() -> None:
    """Have ``save_pretrained`` tell what was done to a model, and ``Trainer`` see to it where it resumes."""
    from transformers import PreTrainedConfig  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    from transformers.modeling_utils import PreTrainedModel  # pyright: ignore[reportMissingImports]

    if not hasattr(PreTrainedModel.save_pretrained, "__wrapped__"):
        _guard_saves(PreTrainedModel, PreTrainedConfig)
    trainer: Any = sys.modules.get("transformers.trainer")
    if trainer is not None and not hasattr(trainer.Trainer._load_from_checkpoint, "__wrapped__"):
        _guard_resuming(trainer.Trainer)


def _guard_saves(models: Any, configs: Any) -> None:
    save, save_config = models.save_pretrained, configs.save_pretrained

    @functools.wraps(save)
    def save_guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard()  # transformers imports its trainer when it is first asked for
        said = operations_in(self)
        if not said:
            return save(self, *args, **kwargs)
        setattr(self.config, _SAID, said)
        try:
            return save(self, *args, **kwargs)
        finally:
            delattr(self.config, _SAID)

    @functools.wraps(save_config)
    def save_config_guarded(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        done = save_config(self, save_directory, *args, **kwargs)
        if hasattr(self, _SAID):  # transformers leaves the name of the weights' file out
            file = Path(save_directory) / "config.json"
            said = {**json.loads(file.read_text(encoding="utf-8")), _FILE: _STOP}
            file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        return done

    models.save_pretrained, configs.save_pretrained = save_guarded, save_config_guarded


def _guard_resuming(trainer: Any) -> None:
    """``Trainer`` loads weights into the model that it was given, and only logs which names it does not know."""
    load = trainer._load_from_checkpoint

    @functools.wraps(load)
    def load_checked(self: Any, resume_from_checkpoint: Any, model: Any = None) -> Any:
        file = Path(resume_from_checkpoint) / "config.json"
        said = json.loads(file.read_text(encoding="utf-8")).get(_SAID, {}) if file.is_file() else {}
        body = self.model if model is None else model
        if recipes_in(said, str(file)) != recipes_in(operations_in(body), type(body).__name__):
            problem = "its model was operated in another way than the one that is to be trained further"
            remedy = "give that to Trainer: sesurgery.integrations.transformers.from_pretrained(CHECKPOINT)"
            raise ArtifactError(problem, where=str(resume_from_checkpoint), remedy=remedy)
        return load(self, resume_from_checkpoint, model)

    trainer._load_from_checkpoint = load_checked
