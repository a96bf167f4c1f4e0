"""Operated models under adapters of peft: new layers are trained and saved whole, and no adapter is put into them."""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import nn

from sesurgery.errors import InputError
from sesurgery.integrations.operations import new_layers


def config_for(model: nn.Module, config: Any) -> Any:
    """A copy of a configuration of peft that leaves the new layers of an operated model alone.

    They are named in ``modules_to_save``, so that they are trained and stored with the adapter, and in
    ``exclude_modules``, so that ``target_modules=["fc1"]`` does not mean the ``fc1`` inside of them. An adapter that is
    loaded onto a model without them makes peft warn that what was excluded is not there.

    Args:
        model: what ``apply`` returned, trained further or not.
        config: ``LoraConfig(...)`` or another that has these two fields.

    Raises:
        InputError: nothing was operated, or the configuration has no such fields.
    """
    paths = new_layers(model)
    if not paths:
        raise InputError("no operation has changed this model", where=type(model).__name__, remedy="use peft as it is")
    if not (hasattr(config, "modules_to_save") and hasattr(config, "exclude_modules")):
        problem = "has no modules_to_save or no exclude_modules, without which new layers would be frozen or adapted"
        raise InputError(problem, where=type(config).__name__, remedy="use LoraConfig or one that has them")
    known = copy.deepcopy(config)
    layers = {path: model.get_submodule(path) for path in paths}
    trained = [path for path, layer in layers.items() if list(layer.parameters())]
    known.modules_to_save = [*(known.modules_to_save or ()), *trained]
    inside = [f"{path}.{name}".rstrip(".") for path, layer in layers.items() for name, _ in layer.named_modules()]
    excluded = known.exclude_modules
    if isinstance(excluded, str):  # a regular expression for the whole path
        known.exclude_modules = f"(?:{excluded})|(?:.*\\.)?(?:{'|'.join(map(re.escape, inside))})"
    else:
        known.exclude_modules = [*(excluded or ()), *inside]
    return known
