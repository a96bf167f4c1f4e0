"""A newcomer's walk: every block of code of a page, from top to bottom, as it stands there, in an empty folder.

``python docs/walk.py README.md docs/howto/*.md`` needs sesurgery on the PATH; ``.ci/walk`` installs it in an
empty environment first. Blocks of Python share one namespace, as they do for a reader who types them in; blocks of text
and of diffs are outputs, which ``docs/make.py --check`` compares.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(
    r"(?:<!-- (?P<verb>run|file): (?P<name>[^\n]*?) -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# What a page takes for granted: the reader's own checkpoint, images and training.
PROPS = """
import timm, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file

torch.manual_seed(0)
save_file(timm.create_model("resnet50", zero_init_last=False).state_dict(), "resnet50.safetensors")
for name in ("cats", "dogs"):
    Path("images/val", name).mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (64, 64), (40 * index, 90, 120)).save(Path("images/val", name, f"{index}.png"))
"""
# What is done before the walk begins, by who starts it: making the environment, and installing.
BEFORE = ("python -m venv",)
INSTALLED = re.compile(r"^.*pip install \S+( && )?")


def steps(text: str) -> list[tuple[str, str, str]]:
    """The blocks of a page: their kind (``bash``, ``python``, ``file``), their name if they are a file, their text."""
    found = []
    for block in _BLOCK.finditer(text):
        if block["verb"] == "file":
            found.append(("file", block["name"], block["body"]))
        elif block["verb"] is None and block["kind"] in ("bash", "python"):
            found.append((block["kind"], "", block["body"]))
    return found


def walk(page: Path) -> None:
    """Do what a page says. Raises ``CalledProcessError`` at the first step that fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as place:

        def done(*command: str) -> None:
            subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)

        done(sys.executable, "-c", PROPS)
        lived: list[str] = []
        for kind, name, body in steps(page.read_text(encoding="utf-8")):
            print(f"{page.name}: {name or body.strip().splitlines()[0]}", flush=True)
            if kind == "file":
                Path(place, name).write_text(body, encoding="utf-8")
            elif kind == "python":
                lived.append(body)
                file = Path(place, "typed.py")
                file.write_text("\n".join(lived), encoding="utf-8")
                done(sys.executable, str(file))
            elif "pytest" not in body:
                command = INSTALLED.sub("", body.strip()) if body.startswith(BEFORE) else body
                done("bash", "-euo", "pipefail", "-c", command)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        walk(Path(argument))
