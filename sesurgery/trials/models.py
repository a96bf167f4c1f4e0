"""The models that are trained: the unmodified one and every candidate, made anew for each seed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sesurgery.api import apply
from sesurgery.models import zoo
from sesurgery.trials.training import seeded


@dataclass(frozen=True)
class Source:
    """Makes the models that are trained; another process gets it by pickle.

    Attributes:
        model: a reference, or a module of which copies are made.
        recipes: by the fingerprint of the candidate.
        seen_with: the ``example_input`` or ``input_size`` that the candidates were costed with: on another size a
            recipe may find other places.
        others: other models by reference, by a key that is no candidate's.
    """

    model: str | nn.Module
    model_args: Mapping[str, Any]
    pretrained: bool
    recipes: Mapping[str, Mapping[str, Any]]
    seen_with: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, key: str, seed: int) -> nn.Module:
        """The model of a candidate, another one by reference, or the unmodified one for any other key.

        Its old weights depend on the seed only.
        """
        seeded(seed)
        if key in self.others:
            return zoo.create(zoo.resolve(self.others[key]), device="cpu", pretrained=self.pretrained)
        if isinstance(self.model, nn.Module):
            model = copy.deepcopy(self.model)
        else:
            model = zoo.create(zoo.resolve(self.model, self.model_args), device="cpu", pretrained=self.pretrained)
        if key not in self.recipes:
            return model
        return apply(model, self.recipes[key], inplace=True, **self.seen_with).model

    def digest(self) -> str:
        """What the models are, in a few letters; a module counts by its class and its parameters' names and shapes."""
        shapes: Any = self.model
        if isinstance(self.model, nn.Module):
            sizes = [(name, list(value.shape)) for name, value in self.model.named_parameters()]
            shapes = [type(self.model).__qualname__, sizes]
        data = [
            shapes,
            sorted(self.model_args.items()),
            self.pretrained,
            sorted(self.recipes),
            sorted(self.others.values()),
        ]
        return hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()
