"""The tensors of an operated model, those that its operations took away included, out of a model and back into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.artifact.names import Role
from sesurgery.artifact.safetensors_writer import DTYPES, raw
from sesurgery.errors import ArtifactError
from sesurgery.operating.backup import mark_of
from sesurgery.operating.distributed import refuse_to_write
from sesurgery.words.paths import join
from sesurgery.words.text import last_line, listed, shown

State = dict[str, Tensor]
# Between the place that something was taken from and the names inside it.
INSIDE = "::"
_SHOWN = 5


@dataclass(frozen=True)
class Weights:
    """What has to be stored of an operated model.

    Attributes:
        model: its state_dict, every tensor once, contiguous and on the CPU.
        removed: weights of the modules that operations took away, by ``path::key``.
        aliases: by file (``model``, ``removed``): second names of tensors that are stored once.
        exchanged: paths of the children that operations set.
        buffers: dtypes of the floating-point buffers that the state_dict leaves out.
    """

    model: State
    removed: State
    aliases: dict[Role, dict[str, str]]
    exchanged: tuple[str, ...]
    buffers: dict[str, str]


def collect(model: nn.Module) -> Weights:
    """Everything to store of ``model``. Raises ``ArtifactError`` for what cannot be stored without pickle."""
    refuse_to_write(model)
    changes = list(exchanges(model))
    model_state = _tensors(model)
    removed = {
        f"{place}{INSIDE}{key}": tensor
        for place, old in changes
        if old is not None
        for key, tensor in _tensors(old).items()
    }
    stored, second = _once(model_state)
    kept, other = _once(removed)
    return Weights(
        stored, kept, {"model": second, "removed": other}, tuple(place for place, _ in changes), _loose(model)
    )


def exchanges(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module | None]]:
    """The path of each child that an operation set, with the module that was there before.

    ``a::b`` is the child ``b`` of what was taken away at ``a``.
    """
    for path, host in model.named_modules(remove_duplicate=False):
        mark = mark_of(host)
        for name, (kind, old) in mark.attributes.items() if mark else ():
            place = f"{prefix}{join(path, name)}"
            yield place, old if kind == "module" else None
            if kind == "module" and old is not None:
                yield from exchanges(old, f"{place}{INSIDE}")


def expand(stored: Mapping[str, Tensor], aliases: Mapping[str, str], where: str) -> State:
    """Give tensors that are stored once all their names back."""
    missing = [name for name in aliases.values() if name not in stored]
    doubled = [name for name in aliases if name in stored]
    if missing or doubled:
        name = (missing or doubled)[0][:80]
        raise ArtifactError(f'the alias "{name}" does not fit the file', where=where, remedy="save it again")
    return {**stored, **{name: stored[target] for name, target in aliases.items()}}


def put(model: nn.Module, state: Mapping[str, Tensor], removed: Mapping[str, Tensor], where: str) -> None:
    """Load the weights into an operated model, in the dtypes they have; the weights taken away go into its marks.

    Raises:
        ArtifactError: keys or shapes differ; nothing was loaded then.
    """
    places = [(place, old) for place, old in exchanges(model) if old is not None]
    parts = {place: {} for place, _ in places}
    for key, tensor in removed.items():
        place, _, name = key.rpartition(INSIDE)
        if place not in parts:
            raise ArtifactError(f'"{key[:80]}" belongs to nothing that was removed', where=where, remedy=_OTHER)
        parts[place][name] = tensor
    pairs = [(model, dict(state)), *((old, parts[place]) for place, old in places)]
    for module, given in pairs:
        _check_fit(module, given, where)
    for module, given in pairs:
        _pour(module, given, where)


def cast_buffers(model: nn.Module, dtypes: Mapping[str, str]) -> None:
    """Give the buffers that no state_dict holds the dtypes they had; names that are not there are passed over."""
    buffers = dict(model.named_buffers())
    for name, text in dtypes.items():
        dtype = getattr(torch, text, None)
        if name in buffers and isinstance(dtype, torch.dtype) and dtype.is_floating_point:
            _cast(buffers[name], dtype)


def reverted(state: Mapping[str, Tensor], removed: Mapping[str, Tensor], exchanged: Iterable[str]) -> State:
    """The state_dict of the model without its operations, made from the stored tensors alone."""
    levels: dict[str, State] = {"": dict(state)}
    for key, tensor in removed.items():
        place, _, name = key.rpartition(INSIDE)
        levels.setdefault(f"{place}{INSIDE}", {})[name] = tensor
    return _reverted("", levels, tuple(exchanged))


def _reverted(level: str, levels: Mapping[str, State], exchanged: tuple[str, ...]) -> State:
    places = [path[len(level) :] for path in exchanged if path.startswith(level) and INSIDE not in path[len(level) :]]
    own = levels.get(level, {})
    gone = tuple(f"{place}." for place in places)
    result = {key: tensor for key, tensor in own.items() if not key.startswith(gone)}
    for place in places:
        # As revert does: what comes back takes the dtype of what it meets.
        host = place.rpartition(".")[0]
        near = [*_below(own, f"{place}."), *_below(result, f"{host}." if host else "")]
        dtype = next((tensor.dtype for tensor in near if tensor.is_floating_point()), None)
        for key, tensor in _reverted(f"{level}{place}{INSIDE}", levels, exchanged).items():
            result[f"{place}.{key}"] = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    return result


def _below(state: State, prefix: str) -> Iterator[Tensor]:
    return (tensor for key, tensor in state.items() if key.startswith(prefix))


_OTHER = "load it into the model that was operated: sesurgery.load(folder, model=...)"


def _tensors(module: nn.Module) -> State:
    state: dict[str, Any] = module.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            problem = f"{key} holds a {type(value).__name__}, and an artefact holds tensors only"
            raise ArtifactError(problem, where=type(module).__name__, remedy="keep it out of the state_dict")
        if nn.parameter.is_lazy(value):
            raise ArtifactError(f"{key} has no shape yet", where=type(module).__name__, remedy="run the model once")
        if value.is_meta:
            remedy = 'create the model with its weights: device="cpu"'
            raise ArtifactError(f"{key} is on meta: there are no weights to save", where="model", remedy=remedy)
        if value.layout is not torch.strided or value.dtype not in DTYPES or not has_bytes(value):
            problem = f"{key} is sparse, quantized or of a dtype that safetensors cannot hold ({value.dtype})"
            raise ArtifactError(problem, where=type(module).__name__, remedy="save a dense model")
    return dict(state)


def has_bytes(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie in memory as they are; those of torchao and of DTensor are made of others."""
    try:
        return tensor.untyped_storage().data_ptr() >= 0
    except (RuntimeError, NotImplementedError):
        return False


def _once(state: State) -> tuple[State, dict[str, str]]:
    """Every tensor once, contiguous, on the CPU and with memory of its own; and the second names."""
    stored: State = {}
    aliases: dict[str, str] = {}
    views: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for key, value in state.items():
        tensor = value.detach()
        view = _view(tensor)
        if tensor.numel() and view in views:
            aliases[key] = views[view]
            continue
        views[view] = key
        plain = tensor.cpu().contiguous()
        stored[key] = plain.clone() if view[0] in storages and plain.data_ptr() == tensor.data_ptr() else plain
        storages.add(view[0])
    return stored, aliases


def _loose(model: nn.Module) -> dict[str, str]:
    known = model.state_dict().keys()
    return {
        name: str(buffer.dtype).removeprefix("torch.")
        for name, buffer in model.named_buffers()
        if name not in known and torch.is_floating_point(buffer)
    }


def _check_fit(module: nn.Module, state: State, where: str) -> None:
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    problems = [
        *_some("missing", own.keys() - state.keys()),
        *_some("unexpected", state.keys() - own.keys()),
        *_some(
            "of another shape",
            (key for key in own.keys() & state.keys() if not _alike(own[key], state[key])),
            lambda key: f" {tuple(state[key].shape)}, here {tuple(own[key].shape)}",
        ),
    ]
    problems += _some("parted that are one here", _parted(own, state))
    if problems:
        problem = f"the weights do not fit the {type(module).__name__}: {'; '.join(problems)}"
        raise ArtifactError(problem, where=where, remedy=_OTHER)


def _parted(own: State, state: State) -> list[str]:
    """Names of one tensor of the model for which different values are given: the last would silently win."""
    first: dict[tuple[Any, ...], str] = {}
    real = {key: tensor for key, tensor in own.items() if tensor.numel() and not tensor.is_meta and has_bytes(tensor)}
    pairs = [(first.setdefault(_view(tensor), key), key) for key, tensor in real.items()]
    return [key for one, key in pairs if {one, key} <= state.keys() and not _same(state[one], state[key])]


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or raw(one.detach().cpu().contiguous()) == raw(other.detach().cpu().contiguous())


def _view(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same numbers in memory."""
    place = tensor.untyped_storage().data_ptr()
    return place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _some(defect: str, keys: Iterable[str], note: Any = lambda key: "") -> list[str]:
    names = sorted(keys)
    some = listed(names, _SHOWN, lambda name: f"{shown(name, 80)}{note(name)}")
    return [f"{len(names)} {defect}: {some}"] if names else []


def _alike(own: Tensor, given: Tensor) -> bool:
    same = own.is_floating_point() == given.is_floating_point() and own.is_complex() == given.is_complex()
    return same and own.shape == given.shape


def _pour(module: nn.Module, state: State, where: str) -> None:
    live = module.state_dict(keep_vars=True)
    for key, tensor in state.items():
        if live[key].dtype != tensor.dtype:
            _cast(live[key], tensor.dtype)
    # The module's own dict keeps its version marks, by which some modules would else convert "old" weights.
    full = module.state_dict()
    full.update(state)
    try:
        module.load_state_dict(full)
    except Exception as error:
        raise ArtifactError(f"the model refused its weights: {last_line(error)}", where=where, remedy=_OTHER) from error


def _cast(tensor: Tensor, dtype: torch.dtype) -> None:
    tensor.data = tensor.data.to(dtype)
