"""Operated networks in Lightning: ``load_from_checkpoint`` builds the module anew, and the operations are repeated."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import nn

from sesurgery.errors import ArtifactError
from sesurgery.integrations.operations import operations_in, repeat_operations

_SAID = "sesurgery"


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
            repeat_operations(model, said, "the checkpoint")
        elif _recipes(done) != _recipes(said):
            problem = "this module was operated in another way than that of the checkpoint"
            raise ArtifactError(
                problem, where=type(self).__name__, remedy="load it into a module that was not operated"
            )

    def _network(self) -> nn.Module:
        assert isinstance(self, nn.Module)
        return self


def _recipes(said: Any) -> Any:
    return {path: [each["plan"]["recipe"] for each in done["operations"]] for path, done in said.items()}
