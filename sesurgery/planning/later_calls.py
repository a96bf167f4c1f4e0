"""Calls that a model offers for later (``fuse``, ``switch_to_deploy``, ``reparameterize``) are tried on a copy.

They replace layers and forwards, and a layer that was put in may be skipped afterwards: its edit says so.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sesurgery.operating.edited_class import original_class
from sesurgery.planning.rehearsal import Rehearsal
from sesurgery.plans import Edit
from sesurgery.recording.module_state import undisturbed
from sesurgery.recording.recorder import run

_OFFERED = re.compile(r"(?!_).*(fuse|fusion|reparam|re_param|deploy|merge)", re.IGNORECASE)


def later_calls(model: nn.Module) -> list[tuple[type[nn.Module], str]]:
    """Classes of the model with methods that take no arguments and are called after training, by their names."""
    kinds = dict.fromkeys(original_class(type(module)) for module in model.modules())
    authors = [kind for kind in kinds if not kind.__module__.startswith("torch.")]
    return [(kind, name) for kind in authors for name in dir(kind) if _is_offered(kind, name)]


def _is_offered(kind: type[nn.Module], name: str) -> bool:
    if not _OFFERED.match(name) or hasattr(nn.Module, name):
        return False
    method = getattr(kind, name)
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [each for each in parameters if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD]
    return callable(method) and [each.name for each in needed] == ["self"]


def with_lost_layers(rehearsal: Rehearsal) -> tuple[Edit, ...]:
    """The edits of a rehearsal that is over, with a note on each whose layer is skipped after a later call."""
    paths = [edit.path for edit in rehearsal.edits if edit.action == "insert"]
    offered = later_calls(rehearsal.survey.twin) if paths else []
    lost: dict[str, list[str]] = {}
    for kind, name in offered:
        for path in _lost_by(rehearsal.performed(), rehearsal.survey.args, kind, name, paths):
            lost.setdefault(path, []).append(f"{kind.__name__}.{name}()")
    return tuple(
        replace(edit, notes=(*edit.notes, f"after {' or '.join(lost[edit.path])} this layer is skipped"))
        if edit.path in lost
        else edit
        for edit in rehearsal.edits
    )


def _lost_by(
    model: nn.Module, args: tuple[Any, ...], kind: type[nn.Module], name: str, paths: Sequence[str]
) -> Iterator[str]:
    """The paths of the layers that are called no more once all modules of a class were told to; none on an error."""
    operated = copy.deepcopy(model)
    layers = {path: operated.get_submodule(path) for path in paths}
    try:
        # What it makes must lie where its weights lie.
        device = next(operated.parameters()).device
        with undisturbed(operated.modules()), _silent(), torch.device(device):
            for module in [each for each in operated.modules() if original_class(type(each)) is kind]:
                result = getattr(module, name)()
                if isinstance(result, nn.Module) and result is not module:
                    _exchange(operated, module, result)
            calls = run(operated, args).calls
    except Exception:
        return
    yield from (path for path, layer in layers.items() if not calls.get(layer))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What such a call prints or logs tells of the copy, and nobody asked for it."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
