"""Graphviz, where it is installed."""

from __future__ import annotations

import shutil
import subprocess

from sesurgery.errors import InputError

FORMS = ("svg", "png", "pdf", "dot")
_TIMEOUT = 120


def rendered(text: str, form: str) -> bytes:
    """A graph in graphviz's language as a picture.

    Raises:
        InputError: graphviz is not installed, or there is no such form.
    """
    if form not in FORMS:
        raise InputError(f'no picture of the form "{form}"', where="form", remedy=f"one of {', '.join(FORMS)}")
    if form == "dot":
        return text.encode()
    program = shutil.which("dot")
    if program is None:
        remedy = (
            "install graphviz (apt install graphviz, brew install graphviz, conda install graphviz), or ask for .dot"
        )
        raise InputError("a block is drawn by graphviz, whose program dot is not here", remedy=remedy)
    done = subprocess.run(
        [program, f"-T{form}"], input=text.encode(), capture_output=True, timeout=_TIMEOUT, check=False
    )
    if done.returncode:
        raise InputError(f"graphviz failed: {done.stderr.decode(errors='replace').strip()[:300]}")
    return done.stdout
