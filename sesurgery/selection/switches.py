"""Layers that can be switched off: at random in each step of a training, by choice when they are judged."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Switches:
    """Switches for inserted layers of a model. A layer that is off hands on what it is given.

    In training, each call of the model draws which layers are on; one is on with probability 1/2.

    Args:
        model: an operated model.
        paths: of its inserted layers.
        seed: of the draws.
    """

    def __init__(self, model: nn.Module, paths: Collection[str], seed: int) -> None:
        self.model = model
        self.on = set(paths)
        self._paths = sorted(paths)
        self._draw = random.Random(seed)

    @contextmanager
    def installed(self) -> Iterator[Switches]:
        """With the switches in place, as forward hooks."""
        hooks = [self.model.register_forward_pre_hook(self._drawn)]
        for path in self._paths:
            hooks.append(self.model.get_submodule(path).register_forward_hook(self._switch(path)))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _drawn(self, model: nn.Module, args: Any) -> None:
        if model.training:
            self.on = {path for path in self._paths if self._draw.random() < 0.5}

    def _switch(self, path: str) -> Any:
        def answered(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return output if path in self.on else args[0]

        return answered
