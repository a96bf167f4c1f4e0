"""Operated models in other libraries: thin files, each imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_NAMES = ("lightning", "peft", "timm_models", "transformers", "ultralytics")


def __getattr__(name: str) -> ModuleType:
    if name not in _NAMES:
        raise AttributeError(f'module "sesurgery.integrations" has no attribute "{name}"')
    return import_module(f"sesurgery.integrations.{name}")
