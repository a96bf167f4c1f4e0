"""Seeded fuzz over recipe text and over artefact folders: every input must end in a result or in a clear error.

    python benchmarks/fuzz.py --recipes 3000 --artifacts 500 --seed 0

A crash is any exception that is not a ``SurgeryError``; a leak is a file that appears outside the folder under test, or
code that ran. The figures go to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from reliability import write_section

import sesurgery
from sesurgery.artifact_files import file_facts
from sesurgery.errors import SurgeryError
from sesurgery.recipe import load_recipe, parse_recipe, recipe_names, recipe_text

MODEL = "timm:test_resnet"
MARK = "fuzz-ran"
WORDS = (
    *(
        "insert",
        "replace",
        "remove",
        "rewire",
        "at",
        "where",
        "stages",
        "rules",
        "module",
        "name",
        "before residual add",
    ),
    *(
        "!!python/object/apply:os.system [touch fuzz-ran]",
        "!!binary x",
        "&a [*a]",
        "*a",
        "<<: {a: 1}",
        "---",
        "...",
        "? - :",
    ),
    *(
        "{" * 40,
        "[" * 900,
        "9" * 5000,
        "-1e999",
        ".nan",
        "0x" + "f" * 30,
        "~",
        "\t",
        "\x00",
        "\ufeff",
        "\u202e",
        "../../etc",
    ),
    *(
        "%YAML 9.9",
        "'",
        '"',
        "|",
        ">",
        "#",
        "yes",
        "1_000",
        "12:30:45",
        "2020-01-01",
        "null: null",
        "? ? ?",
        "\\x",
        "é",
    ),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        7,
        2**31,
        2**63,
        10**30,
        10**400,
        1.5,
        -0.0,
        1e308,
        "",
        "x",
        "../../../etc/passwd",
        "/dev/zero",
    ),
    *(
        [],
        {},
        [[]],
        [1] * 50,
        {"a": {"b": {}}},
        "os:system",
        "timm:resnet18",
        "__class__",
        "a\nb",
        "\x00",
        "layer1.0",
        "se",
    ),
    *(
        f"x);open('{MARK}','w')#",
        f"x=open('{MARK}','w')",
        "nan",
        "é\u202e",
        "float32",
        [10**12, 10**12],
        {"tensor": [-1]},
    ),
)


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


def mutated_text(draw: random.Random, text: str) -> bytes:
    """A recipe with a few things wrong, or nothing but noise."""
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(400))
    for _ in range(draw.randrange(1, 5)):
        cut, end = sorted(draw.randrange(len(text) + 1) for _ in "ab")
        kind = draw.randrange(6)
        if kind == 0:
            text = text[:cut] + text[min(end, cut + 20) :]
        elif kind == 1:
            text = text[:cut] + draw.choice(WORDS) + text[cut:]
        elif kind == 2:
            text = text[:cut] + draw.choice(WORDS) + text[min(end, cut + 12) :]
        elif kind == 3:
            text = text[:cut] + text[cut:end] * draw.randrange(2, 4) + text[end:]
        elif kind == 4:
            lines = text.split("\n")
            draw.shuffle(lines)
            text = "\n".join(lines)
        else:
            text = text[:cut]
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and draw.random() < 0.2:
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def fuzz_recipes(count: int, seed: int) -> Tally:
    """Parse ``count`` recipes; one in ten of those that are good is planned on a tiny network as well."""
    draw, tally = random.Random(seed), Tally()
    texts = [recipe_text(name) for name in recipe_names()]
    for number in range(count):
        data = mutated_text(draw, draw.choice(texts))

        def use(data: bytes = data, number: int = number) -> None:
            recipe = parse_recipe(data, "fuzz.yaml")
            assert load_recipe(recipe) == recipe
            if number % 10 == 0:
                sesurgery.plan(MODEL, recipe)

        tally.take(f"recipe {number} (seed {seed}): {data[:200]!r}", use)
    return tally


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a nested value."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def mutated_record(draw: random.Random, text: str) -> str:
    """``surgery.json`` with values exchanged, dropped, renamed or doubled; the digests stay right."""
    record = json.loads(text)
    for each in record["operations"]:
        if draw.random() < 0.7:  # else most mutations would hit what is only shown
            each["plan"].update(diffs=[], skipped=[])
            each["plan"]["edits"] = each["plan"]["edits"][:2]
    for _ in range(draw.randrange(1, 4)):
        *parents, key = draw.choice(list(places(record)))
        holder = record
        for parent in parents:
            holder = holder[parent]
        kind = draw.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(draw.choice(VALUES))[:300]] = holder.pop(key)
        else:
            holder[key] = draw.choice(VALUES)
    mutated = json.dumps(record)
    if draw.random() < 0.1:
        mutated = mutated.replace('"format"', '"format": "zip", "format"', 1)
    if draw.random() < 0.1:
        cut = draw.randrange(len(mutated))
        mutated = mutated[:cut] + draw.choice(WORDS) + mutated[cut:]
    return mutated


def mutated_folder(draw: random.Random, folder: Path) -> str:
    """Damage a folder in place; returns what was done."""
    kind = draw.choice(("record", "record", "record", "truncate", "flip", "noise", "header", "missing", "journal"))
    record, name = folder / "surgery.json", draw.choice(("model.safetensors", "surgery.json"))
    data = bytearray((folder / name).read_bytes())
    if kind == "record":
        record.write_text(mutated_record(draw, record.read_text()))
    elif kind == "truncate":
        (folder / name).write_bytes(data[: draw.randrange(len(data))])
    elif kind == "flip":
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(data)
    elif kind == "noise":
        (folder / name).write_bytes(draw.randbytes(draw.randrange(2000)))
    elif kind == "missing":
        (folder / name).unlink()
    elif kind == "journal":
        (folder / f"{name}.new").write_bytes(data[: draw.randrange(len(data))])
    else:
        _mutate_weights(draw, folder, data)
    return kind


def _mutate_weights(draw: random.Random, folder: Path, data: bytearray) -> None:
    """A safetensors file with a header that lies, and a digest that fits it."""
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode()
    fields = json.loads(header)
    key = draw.choice([name for name in fields if name != "__metadata__"])
    change = draw.randrange(5)
    if change == 0:
        fields[key]["shape"] = draw.choice(([10**12], [-1], [], [0], [2**63, 2**63], "x"))
    elif change == 1:
        fields[key]["data_offsets"] = draw.choice(([0, 10**15], [-4, 0], [8, 0], [0, 2**64]))
    elif change == 2:
        fields[draw.choice(("../../evil", "__class__", "a" * 5000, ""))] = fields.pop(key)
    elif change == 3:
        fields[key]["dtype"] = draw.choice(("F64", "I8", "BOOL", "X9", 3))
    text = (json.dumps(fields) if change < 4 else header.replace("F32", "F16", 1)).encode()
    length = len(text) if draw.random() < 0.8 else draw.choice((0, 2**63, 2**64 - 1, len(text) + 8))
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])
    record = json.loads((folder / "surgery.json").read_text())
    record["weights"]["model"] = file_facts(folder / "model.safetensors").model_dump()
    (folder / "surgery.json").write_text(json.dumps(record))


def fuzz_artifacts(count: int, seed: int) -> Tally:
    """Load (and now and then revert, or save over) ``count`` damaged artefacts."""
    draw, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        sound = home / "sound"
        surgery = sesurgery.apply(MODEL, "standard", stages="1-2")
        sesurgery.save(surgery, sound)
        for number in range(count):
            folder = home / "case" / "a"
            shutil.copytree(sound, folder)
            kind = mutated_folder(draw, folder)
            label = f"artefact {number} (seed {seed}, {kind})"
            tally.take(label, lambda folder=folder: sesurgery.load(folder))
            if number % 10 == 0:
                tally.take(label, lambda folder=folder: sesurgery.revert_folder(folder, folder.parent / "b"))
                shutil.rmtree(folder.parent / "b", ignore_errors=True)
            if number % 20 == 0 and (folder / "surgery.json").is_file():
                sesurgery.save(surgery, folder)
                tally.take(label, lambda folder=folder: sesurgery.load(folder))
            strangers = [path for path in (*home.iterdir(), *(home / "case").iterdir()) if path.name not in _OURS]
            tally.leaks += [f"{label}: {path}" for path in strangers]
            shutil.rmtree(home / "case")
    return tally


_OURS = {"sound", "case", "a"}


def main() -> int:
    """Run, print, and write docs/reliability.md; 1 where anything crashed or leaked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=3000)
    parser.add_argument("--artifacts", type=int, default=500)
    parser.add_argument("--count", type=int, help="inputs of each kind, instead of the two above")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipes, artifacts = (options.count or options.recipes), (options.count or options.artifacts)
    torch.set_num_threads(1)
    before = set(Path.cwd().iterdir())
    tallies = {
        "recipe text": fuzz_recipes(recipes, options.seed),
        "artefact folders": fuzz_artifacts(artifacts, options.seed),
    }
    strangers = sorted(path.name for path in set(Path.cwd().iterdir()) - before)
    rows = [
        "| inputs | tried | accepted | refused with a message | crashes | files outside | slowest |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, tally in tallies.items():
        refused = sum(tally.refused.values())
        rows.append(
            f"| {name} | {tally.inputs:,} | {tally.accepted:,} | {refused:,} | {len(tally.crashes)} "
            f"| {len(tally.leaks) + len(strangers)} | {tally.slowest:.1f} s |"
        )
        for line in (*tally.crashes[:20], *tally.leaks[:20]):
            print(line)
    print("\n".join(rows), *strangers, sep="\n")
    write_section(
        "Hostile input",
        f"python benchmarks/fuzz.py --recipes {recipes} --artifacts {artifacts} --seed {options.seed}",
        _TEXT,
        rows,
    )
    return 1 if strangers or any(tally.crashes or tally.leaks for tally in tallies.values()) else 0


_TEXT = (
    "Shipped recipes and a saved artefact, mutated at random: truncated, bit-flipped, wrong shapes, path traversal and "
    "code in names, huge numbers, duplicate keys, YAML tags and aliases, safetensors headers that lie under a digest "
    "that fits. A crash is any exception that is not an error of ours; an accepted input is one whose change did not matter "
    "(a comment, a summary, a truncated leftover)."
)

if __name__ == "__main__":
    raise SystemExit(main())
