"""Measures a model before and after an operation, in turns, with torch's own benchmark timer."""

from __future__ import annotations

import copy
import logging
import math
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgery import api
from sesurgery.errors import InputError, ModelError
from sesurgery.recording.nested import batch_of, map_tensors, sample_shapes
from sesurgery.timing.result import Latency
from sesurgery.verification.inputs import Args, Inputs
from sesurgery.words.text import reason

_PAIRS = (7, 51)  # at least, at most
_BLOCK = 0.05  # seconds of one measurement, of as many forwards as they hold


def latency(
    surgery: api.Surgery | nn.Module,
    *,
    device: str | torch.device = "cpu",
    batch: int = 1,
    threads: int | None = None,
    example_input: Any = None,
    seconds: float = 10.0,
) -> Latency:
    """Measure how long one forward takes before and after an operation: eval mode, no gradients, random numbers.

    The original is a copy of the operated model, reverted. The two run in turns, each first in every other pair: what
    slows the machine down slows both. The models themselves stay as they are and where they are.

    Args:
        surgery: what ``apply`` returned, or an operated model.
        device: where both are measured, ``"cpu"`` or ``"cuda"``.
        batch: samples of one forward.
        threads: of the CPU; as many as torch uses where left out.
        example_input: a tensor (N, C, H, W), or a tuple of positional arguments, with any number of samples; where left
            out, the shapes that were operated on.
        seconds: how long to measure, about; at least 7 pairs.

    Returns:
        A :class:`Latency`: medians and ratio, and whether it is within the noise.

    Raises:
        InputError: nothing was operated on, there are no weights, or no such device.
        ModelError: the model does not run on the input.

    Example:
        >>> sesurgery.latency(sesurgery.apply("resnet50", "standard")).ratio
        1.021
    """
    operated = surgery if isinstance(surgery, nn.Module) else surgery.model
    if any(tensor.is_meta for tensor in operated.parameters()):
        raise InputError("a model on meta has no weights to run with", remedy="apply with device='cpu'")
    place, count = _device(device), threads or torch.get_num_threads()
    after = copy.deepcopy(operated)
    models = [model.to(place).eval() for model in (_original(operated), after)]
    args = _example(models[1], example_input, batch)
    with torch.inference_mode():
        make = _timer()
        timers = [make("model(*args)", globals={"model": model, "args": args}, num_threads=count) for model in models]
        pairs = _pairs(timers, seconds)
    named = torch.cuda.get_device_name(place) if place.type == "cuda" else _processor()
    return Latency(named, batch, 0 if place.type == "cuda" else count, sample_shapes(args), pairs)


def _timer() -> Any:
    """torch's timer. What it imports warns where a compiler for CUDA is and no GPU; nobody asked for one."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer


def _pairs(timers: list[Any], seconds: float) -> tuple[tuple[float, float], ...]:
    """Seconds of one forward of each, in turns."""
    once = max(timer.timeit(1).median for timer in timers)
    times = max(1, math.ceil(_BLOCK / once))
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while len(pairs) < _PAIRS[0] or (len(pairs) < _PAIRS[1] and time.monotonic() < end):
        first = len(pairs) % 2
        one, other = (timers[index].timeit(times).median for index in (first, 1 - first))
        pairs.append((other, one) if first else (one, other))
    return tuple(pairs)


def _original(operated: nn.Module) -> nn.Module:
    """A copy of the model as it was before its last operation."""
    plans = api.plans_of(operated)
    original = api.revert(copy.deepcopy(operated))
    for plan in plans[:-1]:
        api.apply(original, plan, inplace=True)
    return original


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except Exception as error:
        raise InputError(f"nothing runs there: {reason(error)}", where=f"device {device}", remedy="try cpu") from None
    if place.type not in ("cpu", "cuda"):
        raise InputError("only cpu and cuda are measured", where=f"device {device}")
    return place


def _example(model: nn.Module, example: Any, batch: int) -> Args:
    """Arguments of ``batch`` samples on which the model runs."""
    inputs = Inputs(model)
    failures: list[str] = []
    for args in inputs.examples(example, None):
        if batch_of(args) != batch:
            args = next((other for _, other in inputs.other_batches(args, batch)), args)
        args = map_tensors(lambda tensor: tensor.to(inputs.device), args)
        try:
            with torch.inference_mode():
                model(*args)
            return args
        except Exception as error:
            failures.append(reason(error))
    problem = f"it does not run on {batch} samples: {failures[0] if failures else 'no input could be made'}"
    raise ModelError(problem, where=type(model).__name__, remedy="give an input that it takes: example_input=...")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
