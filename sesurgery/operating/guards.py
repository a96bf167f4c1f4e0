"""Libraries whose trainers and loaders build a model anew: they speak up once there is an operated model to be lost."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

# A module of theirs, without which no model of theirs is made, and the file that wraps what would lose its layers.
_GUARDS = {
    "lightning.pytorch.core.saving": "sesurgery.integrations.lightning",
    "pytorch_lightning.core.saving": "sesurgery.integrations.lightning",
    "timm.models._hub": "sesurgery.integrations.timm_models",
    "transformers.trainer": "sesurgery.integrations.transformers",
    "transformers.modeling_utils": "sesurgery.integrations.transformers",
    "ultralytics.engine.model": "sesurgery.integrations.ultralytics",
}
_standing: set[str] = set()


def stand_guard() -> None:
    """Called wherever a model is operated on or unpickled. Imports no library that is not there already."""
    for module, home in _GUARDS.items():
        if module in sys.modules and module not in _standing:
            _standing.add(module)
            with contextlib.suppress(ImportError, AttributeError):  # a version that has no such thing to guard
                import_module(home).guard()
