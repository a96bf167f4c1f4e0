"""A delta: an artefact without the tensors that its base has, which are named by digest."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.artifact.names import Role
from sesurgery.artifact.record import Delta, Record
from sesurgery.artifact.safetensors_writer import raw
from sesurgery.artifact.tensors import INSIDE, State, Weights, expand, has_bytes
from sesurgery.errors import ArtifactError, InputError
from sesurgery.models import zoo
from sesurgery.models.checkpoints import load_into
from sesurgery.operating.backup import MODEL_MARK
from sesurgery.operating.perform import revert
from sesurgery.words.text import listed

_GIVE = "give them: delta=MODEL_AS_IT_WAS or delta='weights.safetensors'"
# A model that was cast has its base's weights still: they are compared as it has them.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BaseLike = nn.Module | str | Path
GIVE_BASE = "give what it was made from: sesurgery.load(folder, model=...), or weights=FILE"


def base_state(model: nn.Module, base: BaseLike | bool) -> State:
    """The tensors that ``model`` had before it was operated.

    Args:
        model: the operated model.
        base: a model as it was, or a checkpoint of it; True where ``apply`` was told where the weights come from.

    Raises:
        InputError: that is not known, or the base is no such thing.
    """
    history = model.__dict__[MODEL_MARK]
    if isinstance(base, nn.Module):
        if MODEL_MARK in base.__dict__:
            raise InputError("was operated itself", where="delta", remedy="give the model as it was before")
        state = base.state_dict()
        if any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in state.values()):
            raise InputError("is on meta, which holds no weights", where="delta", remedy='create it with device="cpu"')
        return state
    if not isinstance(base, bool | str | Path):
        problem = f"a {type(base).__name__} is neither a model nor the name of a file"
        raise InputError(problem, where="delta", remedy=_GIVE)
    known = history.get("base")
    source = history.get("source") if base is True else base
    if source is None or source is False:
        problem = "nothing says which weights the model was made from"
        raise InputError(problem, where="delta", remedy=_GIVE)
    if source is True:
        return zoo.create(zoo.resolve(known["reference"], known["args"]), pretrained=True).state_dict()
    body = zoo.create(zoo.resolve(known["reference"], known["args"])) if known else revert(copy.deepcopy(model).cpu())
    load_into(body, source)
    return body.state_dict()


def without_base(weights: Weights, base: Mapping[str, Tensor]) -> tuple[Weights, Delta]:
    """What a delta stores: the tensors that are new or changed, and digests of the others."""
    own, unchanged = _parted(weights.model, {key: key for key in weights.model}, base)
    removed, untouched = _parted(weights.removed, {key: key.replace(INSIDE, ".") for key in weights.removed}, base)
    return dataclasses.replace(weights, model=own, removed=removed), Delta(unchanged=unchanged, removed=untouched)


def _parted(state: State, places: Mapping[str, str], base: Mapping[str, Any]) -> tuple[State, dict[str, str]]:
    own: State = {}
    same: dict[str, str] = {}
    for key, tensor in state.items():
        there = base.get(places[key])
        if isinstance(there, Tensor) and there.shape == tensor.shape:
            mark = digest(tensor)
            if _marked(there, mark, (tensor.dtype,)) is not None:
                same[key] = mark
                continue
        own[key] = tensor
    return own, same


def _marked(tensor: Tensor, mark: str, dtypes: tuple[torch.dtype, ...] = _DTYPES) -> Tensor | None:
    """A tensor of the base as it was in the operated model, by its digest; None where it was another."""
    if tensor.is_meta or not has_bytes(tensor):
        return None
    known = dict.fromkeys((tensor.dtype, *dtypes)) if tensor.is_floating_point() else (tensor.dtype,)
    return next((cast for dtype in known if digest(cast := tensor.detach().to(dtype)) == mark), None)


def digest(tensor: Tensor) -> str:
    """What tells a tensor from every other: dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    state = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    state.update(raw(plain))
    return state.hexdigest()


def completed(record: Record, model: State, removed: State, base: nn.Module, where: str) -> tuple[State, State]:
    """All tensors of a delta: those that it stores, and those of its base.

    Raises:
        ArtifactError: the base is another one.
    """
    assert record.delta is not None
    there = {key: value for key, value in base.state_dict().items() if isinstance(value, Tensor)}
    untouched = {key: (key.replace(INSIDE, "."), mark) for key, mark in record.delta.removed.items()}
    unchanged = {key: (key, mark) for key, mark in record.delta.unchanged.items()}
    wanted = [*unchanged.values(), *untouched.values()]
    known = {(key, mark): _marked(there[key], mark) if key in there else None for key, mark in wanted}
    wrong = sorted({key for (key, _), tensor in known.items() if tensor is None})
    if wrong:
        problem = f"is a delta of another base: {len(wrong)} of its tensors differ: {listed(wrong, 3)}"
        raise ArtifactError(problem, where=where, remedy=GIVE_BASE)
    whole = (
        {**state, **{key: tensor for key, place in names.items() if (tensor := known[place]) is not None}}
        for state, names in ((model, unchanged), (removed, untouched))
    )
    roles: tuple[Role, Role] = ("model", "removed")
    first, second = (
        expand(state, record.aliases.get(role, {}), where) for role, state in zip(roles, whole, strict=True)
    )
    return first, second
