"""Operated networks in Lightning: ``load_from_checkpoint`` builds the module anew, and the operations are repeated.

Where they are not, Lightning names weights that it does not know, and says nothing of layers without weights; so the
checkpoints of operated modules tell what was done, and loading one into another module ends in a message of ours.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import MutableMapping
from importlib import import_module
from typing import Any

from torch import nn

from sesurgery.errors import ArtifactError
from sesurgery.integrations.operations import operations_in, recipes_in, repeat_operations

_SAID = "sesurgery"
_WHERE = "the checkpoint"


class KeepsOperations:
    """Stands before ``LightningModule`` among the bases of a module whose networks are operated after it was built.

    Its checkpoints say what was done; ``load_from_checkpoint`` and ``fit(..., ckpt_path=...)`` do it again before they
    load the weights. A module that operates in its own ``__init__`` does not need it.

    >>> class Classifier(KeepsOperations, lightning.LightningModule): ...
    """

    def on_save_checkpoint(self, checkpoint: MutableMapping[str, Any]) -> None:
        """Say in the checkpoint what was done."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        said = operations_in(self._network())
        if said:
            checkpoint[_SAID] = said

    def on_load_checkpoint(self, checkpoint: MutableMapping[str, Any]) -> None:
        """Do it again. Raises ``ArtifactError`` where something else was done to this module already."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        model, said = self._network(), checkpoint.get(_SAID, {})
        done = operations_in(model)
        if not done:
            repeat_operations(model, said, _WHERE)
        elif recipes_in(done, _WHERE) != recipes_in(said, _WHERE):
            raise _other(model)

    def _network(self) -> nn.Module:
        assert isinstance(self, nn.Module)
        return self


def _other(module: nn.Module) -> ArtifactError:
    problem = "the module of this checkpoint was operated in another way than this one"
    bases = "with sesurgery.integrations.lightning.KeepsOperations before LightningModule among its bases"
    remedy = f"load it into a module that was not operated, {bases}"
    return ArtifactError(problem, where=type(module).__name__, remedy=remedy)


def callbacks() -> list[Any]:
    """No callback: Lightning calls this for every ``Trainer``, also where nothing is operated, and the guard stands."""
    guard()
    return []


def guard() -> None:
    """Have checkpoints tell what was done to a module, and speak up where one is loaded into another."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        saving: Any = sys.modules.get(f"{name}.core.saving")
        if saving is not None and not hasattr(saving._load_state, "__wrapped__"):
            connector = import_module(f"{name}.trainer.connectors.checkpoint_connector")._CheckpointConnector
            _guard_saves(connector)
            _guard_loads(saving, connector)


def _guard_saves(connector: Any) -> None:
    dump = connector.dump_checkpoint

    @functools.wraps(dump)
    def dump_telling(self: Any, *args: Any, **kwargs: Any) -> Any:
        checkpoint = dump(self, *args, **kwargs)
        try:
            said = operations_in(self.trainer.lightning_module)
        except ArtifactError as error:  # a training goes on without what cannot be told
            warnings.warn(f"the checkpoint does not tell how it was operated: {error}", stacklevel=2)
            return checkpoint
        if said:
            checkpoint.setdefault(_SAID, said)
        return checkpoint

    connector.dump_checkpoint = dump_telling


def _guard_loads(saving: Any, connector: Any) -> None:
    load, restore = saving._load_state, connector.restore_model

    @functools.wraps(load)
    def load_checked(cls: Any, checkpoint: Any, strict: bool | None = None, **kwargs: Any) -> Any:
        module = load(cls, checkpoint, strict=strict, **kwargs)
        _check_loaded(module, checkpoint, strict)
        return module

    @functools.wraps(restore)
    def restore_checked(self: Any) -> None:
        restore(self)
        _check_loaded(self.trainer.lightning_module, self._loaded_checkpoint, None)

    saving._load_state, connector.restore_model = load_checked, restore_checked


def _check_loaded(module: Any, checkpoint: Any, strict: bool | None) -> None:
    """An error where the module of the checkpoint was operated and this one was not; a warning where not strict."""
    said = checkpoint.get(_SAID)
    if not said or not isinstance(module, nn.Module):
        return
    try:
        done = operations_in(module)
    except ArtifactError:  # it was changed since, so that what it has cannot be compared
        return
    if recipes_in(done, _WHERE) == recipes_in(said, _WHERE):
        return
    error = _other(module)
    if module.strict_loading if strict is None else strict:
        raise error
    warnings.warn(str(error), stacklevel=4)
