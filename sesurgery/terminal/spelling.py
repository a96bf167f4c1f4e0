"""What Python calls an argument, the command line calls an option: errors say the one that their reader can type."""

from __future__ import annotations

import re

from sesurgery.errors import SurgeryError

# As messages of the package write it, and what to type instead.
OPTIONS = {
    "pretrained=True": "--pretrained",
    "weights=...": "--weights FILE",
    "example_input=...": "--example FILE.py:NAME",
    "input_size=...": "--input-size C,H,W",
    "trust_code=True": "--trust-code",
    "overwrite=True": "--force",
    "storage=...": "--storage URL",
    "aim=...": "--aim NAME",
    "the model_args it": "the --model-arg values it",
}
# What is at fault, where a message begins with the argument's bare name.
PLACES = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "aim",
        "block",
        "budget",
        "input_size",
        "pruner",
        "sort",
        "stages",
        "storage",
        "train",
        "validate",
        "weights",
    )
} | {"example_input": "--example", "model_args": "--model-arg", "model": "MODEL", "modules": "--module"}

_PYTHON = re.compile("|".join(map(re.escape, OPTIONS)))
_MODEL_ARGS = re.compile(r"model_args=\{([^{}]*)\}")
_PAIR = re.compile(r'"(\w+)": ("[^"]*"|[^,]+)')


def on_the_command_line(error: SurgeryError) -> str:
    """The text of an error with options in the place of Python's arguments."""
    place, text = error.where or "", str(error)
    word = place.partition(" ")[0]
    if word in PLACES and text.startswith(place):
        text = PLACES[word] + text[len(word) :]
    text = _MODEL_ARGS.sub(lambda given: " ".join(_pairs(given[1])), text)
    return _PYTHON.sub(lambda argument: OPTIONS[argument[0]], text)


def _pairs(text: str) -> list[str]:
    return ["--model-arg {}={}".format(key, value.strip('"')) for key, value in _PAIR.findall(text)]
