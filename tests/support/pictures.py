"""Made-up images with labels, in the folders that ultralytics reads."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

# What stands behind the class in a line of labels: a box of centre and size, corners, or a box and its key points.
_LABELS = {
    "detect": "{cx} {cy} {w} {h}",
    "segment": "{l} {t} {r} {t} {r} {b} {l} {b}",
    "obb": "{l} {t} {r} {t} {r} {b} {l} {b}",
    "pose": "{cx} {cy} {w} {h} {l} {t} 2 {r} {b} 2",
}
NAMES = ("disc", "square")


def make(folder: Path, task: str = "detect", count: int = 20, side: int = 64) -> str:
    """Draw ``count`` images of a disc or a square each, as train and val; what ``data=`` is to be."""
    draw = random.Random(0)
    for index in range(count):
        kind = index % len(NAMES)
        left, top, size = draw.randrange(side // 2), draw.randrange(side // 2), draw.randrange(side // 4, side // 2)
        image = Image.new("RGB", (side, side), tuple(draw.randrange(256) for _ in range(3)))
        shape = ImageDraw.Draw(image)
        (shape.ellipse if kind == 0 else shape.rectangle)((left, top, left + size, top + size), fill="white")
        for split in ("train", "val"):
            home = folder / split / NAMES[kind] if task == "classify" else folder / "images" / split
            home.mkdir(parents=True, exist_ok=True)
            image.save(home / f"{index:02d}.png")
            if task != "classify":
                _label(folder / "labels" / split / f"{index:02d}.txt", task, kind, left, top, size, side)
    return str(folder) if task == "classify" else _described(folder, task)


def _label(file: Path, task: str, kind: int, left: int, top: int, size: int, side: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    l, t, r, b = left / side, top / side, (left + size) / side, (top + size) / side  # noqa: E741
    places = {"l": l, "t": t, "r": r, "b": b, "cx": (l + r) / 2, "cy": (t + b) / 2, "w": r - l, "h": b - t}
    file.write_text(f"{kind} {_LABELS[task].format(**{name: f'{each:.4f}' for name, each in places.items()})}\n")


def _described(folder: Path, task: str) -> str:
    lines = [f"path: {folder}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {number}: {name}" for number, name in enumerate(NAMES)]
    lines += ["kpt_shape: [2, 3]"] if task == "pose" else []
    file = folder / "data.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)
