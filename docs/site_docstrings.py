"""For griffe, which reads docstrings for the site: roles become plain code, and examples become blocks of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod):(?=`)")
_EXAMPLE = re.compile(r"^(?:>>>|\.\.\. ).*(?:\n(?!\s*$).*)*", re.MULTILINE)


class AsMarkdown(griffe.Extension):
    """Rewrites what was written for help() as Markdown."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for each object that griffe has read."""
        if obj.docstring is not None:
            text = _ROLE.sub("", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
