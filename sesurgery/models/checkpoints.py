"""Checkpoints: read without running code from them, and loaded with every key accounted for."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sesurgery.errors import ModelError, WeightsError, nearest
from sesurgery.words.text import last_line, listed, reason

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training scripts put the weights inside their checkpoints; the first that is there is taken.
CONTAINERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "module")
# What DataParallel and torch.compile put before every key.
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 10
# Norm layers count their batches; checkpoints from before torch 0.4.1 do not hold the counters.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, and what a user should know about it.

    Attributes:
        path: the file.
        keys: how many tensors were loaded.
        notes: what was unwrapped, stripped, cast or kept, one sentence each.
        nonfinite: keys whose values hold NaN or infinity.
    """

    path: str
    keys: int
    notes: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about weights that cannot be right."""
        if not self.nonfinite:
            return ()
        return (f"{len(self.nonfinite)} tensors hold NaN or infinity: {listed(self.nonfinite, SHOWN)}",)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or ``.tar`` checkpoint.

    Tensors come on the CPU; no code of a pickle is run. ``{"state_dict": …}`` and the like are unwrapped, and a prefix
    that every key has (``module.``) is stripped.

    Raises:
        WeightsError: the file cannot be read, or is no checkpoint.
    """
    state, _ = _unwrap(_read(Path(path)), str(path))
    return _strip(state, ())[0]


def load_into(model: nn.Module, path: str | Path) -> LoadReport:
    """Load a checkpoint into ``model``, all of it or nothing.

    Raises:
        WeightsError: the file is no checkpoint, or a key is missing, unexpected or of another shape.
        ModelError: the model has no memory for weights (it is on meta).
    """
    own = _tensors(model)
    if any(tensor.is_meta for tensor in own.values()):
        raise ModelError("is on the meta device and holds no weights", where="model", remedy="create it on the CPU")
    state, unwrapped = _unwrap(_read(Path(path)), str(path))
    state, stripped = _strip(state, own)
    kept = _keepable(model, own, state)
    _check_fit(own, state, kept, str(path))
    _copy(model, {**state, **kept}, str(path))
    notes = (*unwrapped, *stripped, *_cast_notes(own, state), *_kept_notes(kept))
    return LoadReport(str(path), len(state), notes, tuple(key for key, value in state.items() if not _finite(value)))


def _read(path: Path) -> object:
    where = str(path)
    if not path.exists():
        raise WeightsError("no such file", where=where, remedy="check the path")
    if path.is_dir():
        raise WeightsError("is a folder, not a checkpoint", where=where, remedy="name the file in it")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise WeightsError(f"cannot be opened: {error.strerror or error}", where=where) from error
    if size == 0:
        raise WeightsError("is empty", where=where, remedy="save or download it again")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    known = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise WeightsError("is no checkpoint by its name", where=where, remedy=f"known are files that end in {known}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise _broken(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # A TorchScript archive warns and then fails: the error says it all.
            warnings.simplefilter("ignore")
            # Training scripts store their arguments beside the weights; a Namespace is plain data.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None and "weights_only" not in str(error).partition("WeightsUnpickler error")[2]:
            raise _broken(path, error) from error
        problem = (
            f"refused: it holds pickled code ({code[1] if code else 'not only tensors'}), which could run anything"
        )
        remedy = "save the weights alone: torch.save(model.state_dict(), path), or as .safetensors"
        raise WeightsError(problem, where=str(path), remedy=remedy) from error
    except Exception as error:
        # torch.load fails with whatever its layers raise: EOFError, RuntimeError, KeyError, struct.error, ...
        if "TorchScript" in str(error):
            remedy = "save the weights alone: torch.save(model.state_dict(), path)"
            raise WeightsError("is a TorchScript archive", where=str(path), remedy=remedy) from error
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> WeightsError:
    remedy = "save or download it again"
    return WeightsError(f"is truncated or no checkpoint ({reason(error)})", where=str(path), remedy=remedy)


def _unwrap(data: object, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The dict of tensors inside a checkpoint, and what was opened to get at it."""
    opened: list[str] = []
    while isinstance(data, Mapping) and len(opened) < 4:
        containers = [key for key in CONTAINERS if isinstance(data.get(key), Mapping)]
        if not containers:
            break
        others = f' (not "{containers[1]}")' if len(containers) > 1 else ""
        opened.append(f'took the weights from "{containers[0]}"{others}')
        data = data[containers[0]]
    if not isinstance(data, Mapping):
        raise WeightsError(f"holds {type(data).__name__}, not a dict of tensors", where=where)
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            problem = f"is no dict of tensors: {str(key)[:80]!r} holds {type(value).__name__}"
            remedy = f"save the state_dict alone, or under one of {', '.join(CONTAINERS)}"
            raise WeightsError(problem, where=where, remedy=remedy)
    if not data:
        raise WeightsError("holds no tensors", where=where)
    return dict(data), tuple(opened)


def _strip(state: Mapping[str, Tensor], known: Iterable[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take away prefixes that every key has, unless the keys are known as they are."""
    names, stripped, result = set(known), list[str](), dict(state)
    while names.isdisjoint(result):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) and key != p for key in result)), None)
        if prefix is None:
            break
        stripped.append(f'stripped "{prefix}" from every key')
        result = {key[len(prefix) :]: value for key, value in result.items()}
    return result, tuple(stripped)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def _keepable(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What may be absent from a checkpoint: second names of tensors that are there, and counters of norm layers."""
    live = model.state_dict(keep_vars=True)
    present = {id(live[key]): value for key, value in state.items() if key in own}
    kept = {}
    for key in own.keys() - state.keys():
        if id(live[key]) in present:
            kept[key] = present[id(live[key])]
        elif key.rpartition(".")[2] == _COUNTER:
            kept[key] = own[key].clone()
    return kept


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], kept: Mapping[str, Tensor], where: str) -> None:
    missing = [key for key in own if key not in state and key not in kept]
    unexpected = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and not _same_kind(own[key], state[key])]
    if not (missing or unexpected or shapes):
        return
    lines = []
    if missing:
        lines.append(f"{len(missing)} missing: {listed(missing, SHOWN)}")
    if unexpected:
        known = missing or own
        lines.append(f"{len(unexpected)} unexpected: {listed(unexpected, SHOWN, lambda key: key + _hint(key, known))}")
    if shapes:
        differ = listed(shapes, SHOWN, lambda key: f"{key} is {_kind(state[key])}, the model's {_kind(own[key])}")
        lines.append(f"{len(shapes)} of another shape: {differ}")
    problem = "\n  ".join(("does not fit the model, and nothing was loaded", *lines))
    remedy = "name the model it was made for, with the model_args it was made with"
    raise WeightsError(problem, where=where, remedy=remedy)


def _hint(key: str, known: Iterable[str]) -> str:
    near = nearest(key, known, 1)
    return f' (near "{near[0]}")' if near else ""


def _same_kind(own: Tensor, given: Tensor) -> bool:
    return own.shape == given.shape and own.is_complex() == given.is_complex()


def _kind(tensor: Tensor) -> str:
    return f"{'complex ' if tensor.is_complex() else ''}{tuple(tensor.shape)}"


def _copy(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load, and put the old values back where the model itself refuses half-way."""
    before = {key: value.clone() for key, value in _tensors(model).items()}
    try:
        # The model's own dict keeps its version marks, by which some modules would else convert "old" weights.
        full = model.state_dict()
        full.update(state)
        model.load_state_dict(full)
    except Exception as error:
        with torch.no_grad():
            for key, value in _tensors(model).items():
                value.copy_(before[key])
        raise WeightsError(f"the model refused it, and keeps what it had: {last_line(error)}", where=where) from error


def _cast_notes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[str, ...]:
    pairs = {(value.dtype, own[key].dtype) for key, value in state.items() if value.dtype != own[key].dtype}
    names = sorted((str(given)[len("torch.") :], str(kept)[len("torch.") :]) for given, kept in pairs)
    return tuple(f"cast {given} to {kept}" for given, kept in names)


def _kept_notes(kept: Mapping[str, Tensor]) -> tuple[str, ...]:
    counters = sum(key.rpartition(".")[2] == _COUNTER for key in kept)
    shared = len(kept) - counters
    return (
        *((f"kept {counters} batch counters that the file does not hold",) if counters else ()),
        *((f"{shared} shared tensors came under another name",) if shared else ()),
    )


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())
