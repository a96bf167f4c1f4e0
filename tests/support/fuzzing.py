"""Seeded fuzz over recipes, folders, all that reads them, and others' files: each ends in a result or a clear error.

A crash is any exception that is not a ``SurgeryError``; a leak is a file that appears outside the folder under test, or
code that ran.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import json
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mutations import mutated_folder, mutated_record, mutated_text
from safetensors.torch import load_file, save_file
from torch import nn

import sesurgery
from sesurgery.artifact.by_name import subject
from sesurgery.errors import SurgeryError
from sesurgery.excitation.by_name import gates_by_name
from sesurgery.integrations.operations import operations_in, repeat_operations
from sesurgery.models import zoo
from sesurgery.recipe.recipe import load_recipe, parse_recipe, recipe_names, recipe_text

MODEL = "timm:test_resnet"


@dataclass
class Tally:
    """What came of the inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    crashes: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def take(self, label: str, use: Callable[[], object]) -> None:
        """Try one input."""
        self.inputs += 1
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            self.accepted += 1
        except SurgeryError as error:
            self.refused[type(error).__name__] += 1
            if not str(error).strip() or "Traceback" in str(error):
                self.crashes.append(f"{label}: a message that says nothing: {error!r}")
        except Exception as error:
            self.crashes.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
        self.slowest = max(self.slowest, time.perf_counter() - start)


def fuzz_recipes(count: int, seed: int) -> Tally:
    """Parse ``count`` recipes; one in three of those that are good is planned on a tiny network as well."""
    draw, tally = random.Random(seed), Tally()
    texts = [recipe_text(name) for name in recipe_names()]
    for number in range(count):
        data = mutated_text(draw, draw.choice(texts))

        def use(data: bytes = data, number: int = number) -> None:
            recipe = parse_recipe(data, "fuzz.yaml")
            assert load_recipe(recipe) == recipe
            if number % 3 == 0:
                sesurgery.plan(MODEL, recipe)

        tally.take(f"recipe {number} (seed {seed}): {data[:200]!r}", use)
    return tally


def fuzz_artifacts(count: int, seed: int) -> Tally:
    """Load (and now and then revert, or save over) ``count`` damaged artefacts, every other one a delta."""
    draw, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        base, surgery = _saved(home)
        for number in range(count):
            folder = home / "case" / "a"
            fresh = copy.deepcopy(base) if number % 2 else None
            shutil.copytree(home / ("sound" if fresh is None else "delta"), folder)
            kind = mutated_folder(draw, folder)
            label = f"artefact {number} (seed {seed}, {kind})"
            # A forged header comes with a digest that fits: what it says then is what was "saved".
            wanted = {} if kind == "header" else surgery.model.state_dict()

            def load(folder: Path = folder, wanted: Mapping[str, torch.Tensor] = wanted, fresh: Any = fresh) -> None:
                _same(sesurgery.load(folder, model=fresh), wanted)

            tally.take(label, load)
            if number % 5 == 0:
                tally.take(label, lambda folder=folder: sesurgery.revert_folder(folder, folder.parent / "b"))
                shutil.rmtree(folder.parent / "b", ignore_errors=True)
            if number % 20 in (0, 7) and (folder / "surgery.json").is_file():
                sesurgery.save(surgery, folder, delta=False if fresh is None else base)
                again = copy.deepcopy(base) if fresh is not None else None
                tally.take(label, lambda folder=folder, again=again: sesurgery.load(folder, model=again))
            strangers = [path for path in (*home.iterdir(), *(home / "case").iterdir()) if path.name not in _OURS]
            tally.leaks += [f"{label}: {path}" for path in strangers]
            shutil.rmtree(home / "case")
    return tally


def _saved(home: Path) -> tuple[nn.Module, sesurgery.Surgery]:
    """An operated model and its base, saved as ``sound``, as ``delta`` and as ``base.safetensors``."""
    base = zoo.create(zoo.resolve(MODEL))
    surgery = sesurgery.apply(MODEL, "standard", stages="1-2")
    surgery.model.load_state_dict(base.state_dict(), strict=False)
    sesurgery.save(surgery, home / "sound")
    sesurgery.save(surgery, home / "delta", delta=base)
    save_file(base.state_dict(), home / "base.safetensors")
    return base, surgery


def fuzz_readers(count: int, seed: int) -> Tally:
    """Merge, measure or eject ``count`` damaged folders, every other one a delta, some with a damaged base."""
    draw, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        home, case = Path(scratch), Path(scratch) / "case"
        _, surgery = _saved(home)
        for number in range(count):
            weights = case / "base.safetensors" if number % 2 else None
            shutil.copytree(home / ("delta" if weights else "sound"), case / "a")
            kind = mutated_folder(draw, case / "a")
            if weights:
                shutil.copy(home / weights.name, weights)
                kind += _damaged(draw, weights) if draw.random() < 0.3 else ""
            read = _READERS[number // 2 % len(_READERS)]
            label = f"{read.__name__} {number} (seed {seed}, {kind})"
            wanted = {} if kind == "header" else surgery.model.state_dict()
            before = tally.accepted
            tally.take(label, functools.partial(read, case / "a", weights, case / "b", wanted))
            allowed = {"a", "base.safetensors", *(["b"] if tally.accepted > before else [])}
            tally.leaks += [f"{label}: {path}" for path in case.iterdir() if path.name not in allowed]
            tally.leaks += [f"{label}: {path}" for path in home.iterdir() if path.name not in _OURS]
            shutil.rmtree(case)
    return tally


def _damaged(draw: random.Random, file: Path) -> str:
    data = bytearray(file.read_bytes())
    if draw.random() < 0.5:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    else:
        del data[draw.randrange(len(data)) :]
    file.write_bytes(data)
    return " and base"


def _merge(folder: Path, weights: Path | None, output: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    sesurgery.save(sesurgery.load(folder, weights=weights), output)
    _same(sesurgery.load(output), wanted)


def _gates(folder: Path, weights: Path | None, output: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    str(gates_by_name(str(folder), None, 2, weights=weights))


def _eject(folder: Path, weights: Path | None, output: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    model, given = subject(str(folder), {}, lambda *_: None, weights=weights)
    assert isinstance(model, nn.Module)
    sesurgery.eject(model, output, example_input=given["example_input"])
    stored = load_file(output / "weights.safetensors")
    assert all(torch.equal(stored[key], wanted[key]) for key in wanted), "wrong weights"


_READERS = (_merge, _gates, _eject)


def fuzz_operations(count: int, seed: int) -> Tally:
    """Repeat ``count`` damaged operations, as other libraries' files carry them; what is refused changes nothing."""
    draw, tally = random.Random(seed), Tally()
    base = zoo.create(zoo.resolve(MODEL))
    text = json.dumps(operations_in(sesurgery.apply(base, "standard", stages="1-2").model)[""])
    for number in range(count):
        data: Any = mutated_record(draw, text)
        with contextlib.suppress(ValueError):
            data = json.loads(data)
        path = draw.choice(["", "", "", "layer1", "layer1.0.bn1", "nowhere", "..", "a b", 3])

        def repeat(data: Any = data, path: Any = path) -> None:
            fresh = copy.deepcopy(base)
            try:
                repeat_operations(fresh, {path: data}, "a file")
            except SurgeryError:
                assert fresh.state_dict().keys() == base.state_dict().keys(), "a refusal changed the model"
                raise

        tally.take(f"operations {number} (seed {seed}) at {path!r}", repeat)
    return tally


_OURS = {"sound", "delta", "base.safetensors", "case", "a"}


def _same(model: nn.Module, wanted: Mapping[str, torch.Tensor]) -> None:
    """Whatever loads has the weights that were saved; an ``AssertionError`` counts as a crash."""
    state = model.state_dict()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted), "wrong weights"
