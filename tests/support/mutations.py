"""Things that can be wrong with a recipe or with an artefact, drawn at random."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sesurgery.artifact.folder import file_facts

# A file of this name is what injected code would leave.
MARK = "fuzz-ran"
WORDS = (
    *r"""
insert
replace
remove
rewire
at
where
stages
rules
module
name
before residual add
!!python/object/apply:os.system [touch fuzz-ran]
!!binary x
&a [*a]
*a
<<: {a: 1}
---
...
? - :
-1e999
.nan
~
../../etc
%YAML 9.9
'
"
|
>
#
yes
1_000
12:30:45
2020-01-01
null: null
? ? ?
\x
é
""".strip().split("\n"),
    *("{" * 40, "[" * 900, "9" * 5000, "0x" + "f" * 30, "\t", "\x00", "\ufeff", "\u202e"),
)
NUMBERS = (None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 10**400, 1.5, -0.0, 1e308)
TEXTS = ("", "x", "../../../etc/passwd", "/dev/zero", "os:system", "timm:resnet18", "__class__", "a\nb", "\x00", "nan")
PLACES = ("layer1.0", "se", "float32", "é\u202e", f"x);open('{MARK}','w')#", f"x=open('{MARK}','w')")
NESTED = ([], {}, [[]], [1] * 50, {"a": {"b": {}}}, [10**12, 10**12], {"tensor": [-1]})
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, *PLACES, *NESTED)


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
    if kind == "header":
        name = "model.safetensors"
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
