"""SIGKILL a process that saves over an artefact, at random moments; then see what the folder holds.

Afterwards ``load`` must give the old or the new weights exactly.
"""

from __future__ import annotations

import collections
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

import sesurgery
from sesurgery.artifact.save_load import read
from sesurgery.artifact.tensors import exchanges
from sesurgery.models import zoo

MODEL = "timm:test_efficientnet"
# With and without weights that an operation took away, so that files come and go too.
RECIPES = ("swap-attention", "backbone-end")


def fill(model: nn.Module, value: float) -> None:
    """Make every number of an operated model ``value``, those that an operation took away too."""
    with torch.no_grad():
        for module in (model, *(old for _, old in exchanges(model) if old is not None)):
            for tensor in module.state_dict().values():
                tensor.fill_(value)


def base_for(number: int) -> nn.Module:
    """A base for the save of that number: every other tensor is what the model has, too."""
    model = zoo.create(zoo.resolve(MODEL))
    with torch.no_grad():
        for index, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(number + index % 2)
    return model


def is_delta(number: int) -> bool:
    """Whether the save of that number is one of a delta."""
    return number % 2 == 0


def saver(models: Sequence[nn.Module], folder: Path, number: int, say: int) -> NoReturn:
    """Save, over and over, models that are each filled with the number of the save; say when one begins and ends."""
    while True:
        model = models[number // 2 % len(models)]
        fill(model, number)
        delta = base_for(number) if is_delta(number) else False
        os.write(say, f"begin {number}\n".encode())
        sesurgery.save(model, folder, delta=delta)
        os.write(say, f"end {number}\n".encode())
        number += 1


def run(kills: int, seed: int) -> collections.Counter[str]:
    """What ``kills`` kills left: old, new, or wrong; and how many hit a save at work."""
    draw = random.Random(seed)
    found: collections.Counter[str] = collections.Counter()
    before: int | None = None
    models = [sesurgery.apply(MODEL, recipe).model for recipe in RECIPES]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "a"
        for kill in range(kills):
            first = 1 + kill * 10_000
            begun, ended = _kill_one(models, folder, first, draw)
            names, before = _judge(folder, before if begun == first else begun - 1, begun, ended, build=kill % 5 == 0)
            found.update(names)
            if kill % 7 == 6:  # a first save is killed now and then as well
                shutil.rmtree(folder, ignore_errors=True)
                before = None
    return found


def _kill_one(models: Sequence[nn.Module], folder: Path, first: int, draw: random.Random) -> tuple[int, int]:
    """Start a saver, kill it, and return the numbers of the last save that began and of the last that ended."""
    ear, mouth = os.pipe()
    # Forked, not started anew: a process that imports torch first would take seconds.
    child = os.fork()
    if not child:
        try:
            saver(models, folder, first, mouth)
        finally:
            os._exit(1)
    os.close(mouth)
    with os.fdopen(ear) as stream:
        begun, ended = first, first - 1
        start = time.perf_counter()
        for _ in range(2 * draw.randrange(4)):
            begun, ended = _numbers(stream.readline())
        # A save may take twice as long as the ones that were watched.
        span = (time.perf_counter() - start) / max(1, ended - first + 1) or 0.03
        time.sleep(draw.random() * 2 * min(span, 0.2))
        os.kill(child, signal.SIGKILL)
        for line in stream:
            begun, ended = _numbers(line)
    os.waitpid(child, 0)
    return begun, ended


def _numbers(line: str) -> tuple[int, int]:
    """The last save that began and the last that ended, by one line."""
    word, number = line.split()
    return int(number), int(number) - (word == "begin")


def _judge(folder: Path, before: int | None, begun: int, ended: int, build: bool) -> tuple[list[str], int | None]:
    """What the folder holds, and the number of the save that it is."""
    inside = begun > ended
    names = ["killed inside a save"] if inside else []
    names += ["of a delta"] if inside and is_delta(begun) else []
    if not folder.exists():
        return [*names, "nothing, and nothing was there" if inside and before is None else "wrong"], None
    names += ["leftovers"] if any(path.suffix in (".new", ".tmp") for path in folder.iterdir()) else []
    try:
        artifact = read(folder)
        states = [artifact.model, artifact.removed]
        if build and artifact.record.delta is None:
            states.append(sesurgery.load(folder).state_dict())
        elif build:
            number = int(next(iter(artifact.model.values())).flatten()[0])
            states.append(sesurgery.load(folder, model=base_for(number)).state_dict())
    except Exception as error:
        print(f"after save {begun}: {type(error).__name__}: {error}")
        return [*names, "wrong"], None
    values = {float(value) for state in states for tensor in state.values() for value in tensor.double().unique()}
    value = values.pop() if len(values) == 1 else None
    if value == begun:
        return [*names, "new"], begun
    if inside and value is not None and value == before:
        return [*names, "old"], before
    print(f"after save {begun}: {value}, {values}")
    return [*names, "wrong"], None
