"""One run of a copy of a model, and everything that it left behind. The model itself stays as it is."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sesurgery.errors import ModelError
from sesurgery.recording.nested import map_tensors
from sesurgery.tracing.deep_copy import deep_copy, is_plain
from sesurgery.verification.comparison import Comparison, tensors_of
from sesurgery.verification.inputs import Args
from sesurgery.verification.layers import Watch, exchange
from sesurgery.words.text import reason

SEED = 0
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Way:
    """One way to run a model.

    Attributes:
        name: for people.
        args: positional arguments; each run gets copies.
        train: in train mode.
        backward: with gradients of the parameters.
        autocast: under autocast to bfloat16.
    """

    name: str
    args: Args
    train: bool = False
    backward: bool = False
    autocast: bool = False


@dataclass
class Run:
    """What a run left behind.

    Attributes:
        error: why the forward failed, in one line.
        output: what the forward gave.
        inputs: the arguments afterwards.
        gradients: by name of the parameter, None where it got none; empty where nothing was to be derived.
        no_gradients: why the backward pass failed.
        buffers: by name, afterwards.
        attributes: plain attributes of modules that the run has changed, by path.
        random: the states of the random generators afterwards.
    """

    error: str | None = None
    output: Any = None
    inputs: Any = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    no_gradients: str | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)


def run(
    model: nn.Module,
    way: Way,
    *,
    without: Iterable[str] = (),
    halved: Collection[str] = (),
    watch: Watch | None = None,
) -> Run:
    """Run a deep copy of ``model``, with equal seeds each time.

    Args:
        without: paths of inserted layers in whose place the copy gets the identity.
        halved: those of them in whose place it gets half of it.
        watch: notes what the inserted layers of the copy do.

    Raises:
        ModelError: the model cannot be copied.
    """
    subject = _copied(model)
    exchange(subject, without, halved)
    args = map_tensors(lambda tensor: tensor.detach().clone(), way.args)
    result = Run(inputs=args)
    device = next((p.device.type for p in subject.parameters()), "cpu")
    with _plain_surroundings(device, way.autocast):
        if watch is not None:
            watch.attach(subject)
        _seed()
        try:
            before = _plain_attributes(subject.train(way.train))
            result.output = subject(*args)
            result.random = _random_states(subject)
        except Exception as error:
            result.error = reason(error)
            return result
        finally:
            if watch is not None:
                watch.detach()
        if way.backward:
            _backward(subject, result)
            if watch is not None and result.no_gradients is None:
                watch.read_gradients(subject)
    result.buffers = {name: buffer.detach() for name, buffer in subject.named_buffers(remove_duplicate=False)}
    after = _plain_attributes(subject)
    result.attributes = {path: value for path, value in after.items() if before.get(path, subject) != value}
    return result


def compare_runs(case: str, wanted: Run, got: Run) -> Comparison:
    """What ``got`` of the operated model left otherwise than ``wanted`` of the original, which did not fail."""
    comparison = Comparison(case)
    if got.error is not None:
        comparison.add("call", "", "error", got.error)
        return comparison
    comparison.trees("output", "", wanted.output, got.output)
    comparison.trees("input", "", wanted.inputs, got.inputs)
    if wanted.no_gradients is None and got.no_gradients is not None:
        comparison.add("gradient", "", "error", got.no_gradients)
    elif wanted.no_gradients is None:
        comparison.named("gradient", wanted.gradients, got.gradients, new=False)
    comparison.named("buffer", wanted.buffers, got.buffers, new=False)
    comparison.named("attribute", wanted.attributes, got.attributes)
    for name, state in wanted.random.items():
        if state != got.random.get(name):
            comparison.add("random numbers", name, "values", "other or more or fewer numbers were drawn")
    return comparison


@contextlib.contextmanager
def random_states_kept(*models: nn.Module) -> Iterator[None]:
    """Whatever happens meanwhile, torch, Python and NumPy draw the same numbers afterwards as without it."""
    devices = sorted({tensor.device.index or 0 for model in models for tensor in model.parameters() if tensor.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _copied(model: nn.Module) -> nn.Module:
    try:
        with torch.inference_mode(False):
            return deep_copy(model, {}, is_plain)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied, and a check works on copies: {reason(error)}",
            where=type(model).__name__,
            remedy="keep what cannot be copied (locks, files, results of a forward) outside the module",
        ) from error


@contextlib.contextmanager
def _plain_surroundings(device: str, autocast: bool) -> Iterator[None]:
    """Gradients on, inference mode off, autocast as asked for, and no warnings of other people's code."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            yield


def _seed() -> None:
    torch.manual_seed(SEED)
    random.seed(SEED)
    np.random.seed(SEED)


def _random_states(model: nn.Module) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    states = {
        "torch": bytes(torch.get_rng_state().tolist()),
        "Python": random.getstate(),
        "NumPy": (kind, bytes(np.asarray(keys).tobytes()), *rest),
    }
    for device in sorted({str(tensor.device) for tensor in model.parameters() if tensor.is_cuda}):
        states[device] = bytes(torch.cuda.get_rng_state(device).tolist())
    return states


def _backward(model: nn.Module, result: Run) -> None:
    """Derive a weighted sum of all that the output holds, so that no element's part cancels out another's."""
    outputs = [tensor for tensor in tensors_of(result.output) if tensor.requires_grad]
    if not outputs:
        return
    try:
        torch.stack([_weighted(tensor) for tensor in outputs]).sum().backward()
    except Exception as error:
        result.no_gradients = reason(error)
    parameters = model.named_parameters(remove_duplicate=False)
    result.gradients = {name: parameter.grad for name, parameter in parameters}


def _weighted(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    weights = torch.linspace(0.5, 1.5, real.numel(), device=real.device).reshape(real.shape)
    return (real.float() * weights).sum()


def _plain_attributes(model: nn.Module) -> dict[str, Any]:
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, module in model.named_modules()
        for name, value in module.__dict__.items()
        if type(value) in _PLAIN
    }
