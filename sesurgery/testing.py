"""For tests of your own rules, placements and layers."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from sesurgery.api import RecipeLike, plan
from sesurgery.plans import Plan


def assert_forward(
    model: str | nn.Module, rule: RecipeLike, before: str, after: str, *, path: str | None = None, **options: Any
) -> Plan:
    """Plan a rule on a model, and compare the forward that it changes with what you expect.

    Indentation of the whole, empty lines and spaces at the ends of lines do not count. Nothing is performed, and the
    model is not touched.

    Args:
        model: as in :func:`sesurgery.plan`.
        rule: one rule, ``{"insert": {"module": "se"}, "at": "before residual add"}``; or a recipe: a mapping with
            ``rules``, a file, a name or a Recipe.
        before: the forward without the change, as ``sesurgery preview`` shows it. Where several forwards change:
            all of them, in the order of the plan, equal ones once. Where a child is exchanged: its ``self.act = …``.
        after: the same with the change.
        path: look at this module only, such as ``"layer4.0"``.
        **options: as in :func:`sesurgery.plan`: ``example_input`` (N, C, H, W), ``input_size``, ``stages``, ...

    Returns:
        The plan, for what else there is to check: ``plan.edits``, ``plan.skipped``.

    Raises:
        AssertionError: the code is another one; the message is a diff from what you expected to what is planned.
        InputError, NothingMatchedError: as in :func:`sesurgery.plan`.

    Examples:
        >>> import torch
        >>> from sesurgery.testing import assert_forward
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        ...
        ...     def forward(self, x):
        ...         conv = self.conv(x)
        ...         add = x + conv
        ...         return add
        >>> before = '''
        ...     def forward(self, x):
        ...         conv = self.conv(x)
        ...         add = x + conv
        ...         return add
        ... '''
        >>> after = '''
        ...     def forward(self, x):
        ...         conv = self.se(self.conv(x))
        ...         add = x + conv
        ...         return add
        ... '''
        >>> rule = {"insert": {"module": "se"}, "at": "before residual add"}
        >>> plan = assert_forward(Block(), rule, before, after, input_size=(8, 16, 16))
        >>> [edit.path for edit in plan.edits]
        ['se']
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    recipe = {"rules": [rule]} if isinstance(rule, Mapping) and "rules" not in rule else rule
    planned = plan(model, recipe, **options)
    diffs = [diff for diff in planned.diffs if path is None or path in diff.paths]
    pairs = {
        "before": (before, [diff.before for diff in diffs]),
        "after": (after, [diff.after for diff in diffs]),
    }
    problems = [text for name, pair in pairs.items() for text in _difference(name, *pair)]
    if problems:
        edits = [f"{edit.action} {edit.path or 'the model itself'} ({edit.route})" for edit in planned.edits]
        forwards = [f"{', '.join(map(repr, diff.paths))} ({diff.cls})" for diff in planned.diffs]
        problems += [f"edits: {', '.join(edits)}", f"forwards that change: {', '.join(forwards) or 'none'}"]
        raise AssertionError("\n".join(problems))
    return planned


def _difference(name: str, expected: str, planned: list[str]) -> Iterator[str]:
    one, two = _lines(expected), [line for text in planned for line in _lines(text)]
    if one != two:
        yield f"the code {name} the change is not what was expected"
        yield from difflib.unified_diff(one, two, f"{name}, expected", f"{name}, planned", n=len(one), lineterm="")


def _lines(code: str) -> list[str]:
    """The lines of ``code`` that say something, dedented."""
    return [line.rstrip() for line in textwrap.dedent(code.expandtabs(4)).splitlines() if line.strip()]
