"""Plans and costs as text for people, through rich. Numbers are formatted here and computed elsewhere."""

from __future__ import annotations

import dataclasses
import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sesurgery.report.layout import (
    count,
    dots,
    heading,
    make_console,
    new_table,
    percent,
    plural,
    render_svg,
    si,
    sizes,
    some,
)

if TYPE_CHECKING:
    from sesurgery.api import Surgery
    from sesurgery.plans import Cost, Diff, Edit, Plan, Skip

__all__ = ["make_console", "render_report", "render_surgery", "render_svg"]

_TOTALS = (
    ("parameters", "params", count),
    ("MACs", "macs", si),
    ("FLOPs", "flops", si),
    ("activation bytes", "activation_bytes", si),
    ("weight bytes", "weight_bytes", si),
)
FOLD_ABOVE = 12
ROWS_PER_STAGE = 2
WHOLE_FORWARD = 30
LINES_OF_CODE = 80


def render_report(
    console: Console, plan: Plan, *, code: bool = False, every: bool = False, notes: Sequence[str] = ()
) -> None:
    """Print a plan: with ``code`` the rewritten forwards, then edits, sites left alone, totals and notes.

    Args:
        every: the code of every host, and not only of as many as fit on a screen or two.
    """
    if code:
        print_diffs(console, plan.diffs, every=every)
    arrow = "->" if console.options.ascii_only else "→"
    kinds = [kind_of(edit, plan.diffs, arrow) for edit in plan.edits]
    heading(console, f"{plan.model}, recipe {recipe_name(plan)}: {_edits_summary(kinds)}")
    if plan.edits:
        console.print(edits_table(console, plan.edits, kinds))
    if plan.skipped:
        console.print()
        heading(console, f"left alone: {plural(len(plan.skipped), 'site')}")
        console.print(skipped_table(console, plan.skipped))
    if plan.before and plan.after:
        console.print()
        heading(console, f"cost of one forward pass of one sample{f', {sizes(plan.inputs)}' if plan.inputs else ''}")
        console.print(totals_table(console, plan.before, plan.after))
    print_notes(console, (*(note for edit in plan.edits for note in edit.notes), *notes))


def render_surgery(
    console: Console, surgery: Surgery, *, output: Path | None = None, real: bool = True, shell: bool = True
) -> None:
    """Print what was done, how far the output moved, and how to load or undo it.

    Args:
        output: the folder it was saved in.
        real: whether the model had weights; without, only its shapes were operated on.
        shell: for somebody who types commands, and not Python.
    """
    plan = dataclasses.replace(surgery.plan, before=surgery.before, after=surgery.after)
    render_report(console, plan, notes=surgery.notes)
    console.print()
    if surgery.drift is not None:
        console.print(drift_text(surgery.drift, shell=shell))
    if output is not None:
        heading(console, f"saved in {output}")
        console.print(f"  load it: sesurgery.load({str(output)!r})\n  undo it: sesurgery revert {output} -o FOLDER")
    elif not shell:
        console.print("sesurgery.save(surgery, folder) keeps it; sesurgery.revert(surgery.model) undoes it")
    else:
        without = "" if real else ", and no weights were needed"
        console.print(f"nothing was written{without}; -o FOLDER saves the operated model")


def drift_text(drift: float, *, shell: bool = True) -> str:
    """One line on how far the output moved at insertion."""
    if drift == 0:
        return "the output is what it was before the operation"
    still = "--init identity" if shell else 'init="identity"'
    return f"the output moved by {100 * drift:.3g} % at insertion; with {still} it would not have moved"


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print each different note once, with how often it was made."""
    counted: dict[str, int] = {}
    for note in notes:
        counted[note] = counted.get(note, 0) + 1
    for note, times in counted.items():
        console.print(Text(f"note: {note}" + (f" ({times} times)" if times > 1 else ""), style="yellow"))


def recipe_name(plan: Plan) -> str:
    """The name of the recipe a plan was made by."""
    return str(plan.recipe.get("name", "without a name"))


def edits_table(console: Console, edits: Sequence[Edit], kinds: Sequence[str]) -> Table:
    """One row per edit; what all edits share stands in the heading instead. Long lists are folded by stage.

    Args:
        kinds: what each edit is, in words.
    """
    same_kind, words = len(set(kinds)) == 1, dict(zip(map(id, edits), kinds, strict=True))
    table = new_table(console, "path", "stage", "channels", "params", "MACs", right=(1, 2, 3, 4))
    if not same_kind:
        table = new_table(console, "path", "edit", "stage", "channels", "params", "MACs", right=(2, 3, 4, 5))
    for group, hidden in _folded(edits):
        for edit in group:
            kind = [] if same_kind else [words[id(edit)]]
            cost = (count(edit.params, sign=True), si(edit.macs, sign=True))
            table.add_row(edit.path or "(model)", *kind, _or_dash(edit.stage), _or_dash(edit.channels), *cost)
        if hidden:
            cost = (count(sum(e.params for e in hidden), sign=True), si(sum(e.macs for e in hidden), sign=True))
            more = f"{dots(console)} {len(hidden)} more"
            table.add_row(more, *([] if same_kind else [""]), _or_dash(hidden[0].stage), "", *cost, style="dim")
    return table


def skipped_table(console: Console, skipped: Sequence[Skip]) -> Table:
    """Sites that were left alone, one row per reason."""
    table = new_table(console, "reason", "sites", "where", right=(1,))
    by_reason: dict[str, list[str]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, []).append(skip.path or "(model)")
    for reason, paths in by_reason.items():
        table.add_row(reason, str(len(paths)), some(console, paths))
    return table


def totals_table(console: Console, before: Cost, after: Cost) -> Table:
    """Before, after and the difference."""
    table = new_table(console, "", "before", "after", "difference", "", right=(1, 2, 3, 4))
    for label, field, form in _TOTALS:
        old, new = getattr(before, field), getattr(after, field)
        if not (old or new):
            continue
        table.add_row(label, form(old), form(new), form(new - old, sign=True), percent(old, new))
    return table


def print_diffs(console: Console, diffs: Sequence[Diff], *, every: bool = False) -> None:
    """Print what changes in each host; where that is long, of as many as fit on a screen or two."""
    lines = 0
    for index, diff in enumerate(diffs):
        lines += sum(1 for _ in diff_lines(diff)) + 4
        if index and lines > LINES_OF_CODE and not every:
            paths = [path or "(model)" for each in diffs[index:] for path in each.paths]
            more = f"{plural(len(paths), 'more host')} in {plural(len(diffs) - index, 'more way')}: "
            console.print(Text(f"{dots(console)} {more}{some(console, paths)}; --all, or every=True, shows each"))
            console.print()
            return
        print_diff(console, diff)


def print_diff(console: Console, diff: Diff) -> None:
    """Print what changes in a host, as a unified diff of its author's source; what equal hosts share, once."""
    first, *others = (path or "(model)" for path in diff.paths)
    if diff.file:
        console.print(Text(f"--- {diff.file}:{diff.line}", style="bold"), soft_wrap=True)
    heading(console, f"{'+++ ' if diff.file else ''}{first} ({diff.cls})")
    colours = {"+": "green", "-": "red", "@": "cyan", "~": "dim"}
    for sign, line in diff_lines(diff, dots(console)):
        for row in _wrap_code(line, console.width - 1):
            console.print(Text(f"{'' if sign in '@~' else sign}{row}", style=colours.get(sign, "")), no_wrap=True)
    if others:
        console.print(Text(f"{some(console, others)}: the same", style="dim"))
    console.print()


def diff_lines(diff: Diff, gap: str = "...") -> Iterator[tuple[str, str]]:
    """Pairs of sign and line: ``+``, ``-``, blank where unchanged, ``@`` for a place, ``~`` for a remark.

    Of a text from a file what changes is shown with three lines around it, each part with its place there; of other
    texts a short one is shown whole. What attributes hold is one line each.
    """
    before, after = diff.before.splitlines(), diff.after.splitlines()
    if before == after:
        yield "~", "its forward stays as it is; a child changes"
        return
    if not diff.file and all(map(_same_attribute, before, after)) and len(before) == len(after):
        for old, new in zip(before, after, strict=True):
            yield "~", f"{old} -> {new.partition(': ')[2]}"
        return
    longest = max(len(before), len(after))
    context = 3 if diff.file or longest > WHOLE_FORWARD else longest
    for index, line in enumerate(difflib.unified_diff(before, after, lineterm="", n=context)):
        if index > 1 and line.startswith("@@") and diff.file:
            yield "@", _in_file(line, diff.line - 1)
        elif index > 2 and line.startswith("@@"):
            yield "~", gap
        elif index > 2:
            yield line[0], line[1:]


def _same_attribute(old: str, new: str) -> bool:
    """Whether two lines say what one attribute holds: ``self.se: None``."""
    name, colon, _ = old.partition(": ")
    return name.startswith("self.") and bool(colon) and new.startswith(f"{name}: ")


def _in_file(place: str, lines_before: int) -> str:
    """The place of a part, ``@@ -3,7 +3,7 @@``, counted from where the file begins."""
    return re.sub(r"(?<=[-+])\d+", lambda number: str(int(number[0]) + lines_before), place)


def _folded(edits: Sequence[Edit]) -> Iterator[tuple[Sequence[Edit], Sequence[Edit]]]:
    """Runs of edits of one kind in one stage: those to show, and those to fold into one line."""
    for _, run in groupby(edits, key=lambda edit: (edit.stage, edit.action, edit.at, edit.module)):
        group = list(run)
        fold = len(edits) > FOLD_ABOVE and len(group) > ROWS_PER_STAGE + 1
        cut = ROWS_PER_STAGE if fold else len(group)
        yield group[:cut], group[cut:]


def _edits_summary(kinds: Sequence[str]) -> str:
    amount = plural(len(kinds), "edit")
    return f"{amount}, {kinds[0]}" if len(set(kinds)) == 1 else amount


def kind_of(edit: Edit, diffs: Sequence[Diff] = (), arrow: str = "→") -> str:
    """What an edit does, in words: ``insert se before residual add``, ``replace depthwise conv kernel 3 → 5``."""
    if edit.action == "insert":
        return f"insert {edit.module} {edit.at}"
    change = _exchange(edit, diffs, arrow) if edit.action == "replace" else ""
    if change:
        return f"{edit.action} {edit.at} {change}"
    return " ".join(word for word in (edit.action, edit.module if edit.action != "remove" else "", edit.at) if word)


_HELD = re.compile(r"^self\.(\w+) = (.*)$", re.MULTILINE)
_GIVEN = re.compile(r"(\w+)=(\([^)]*\)|[^,()]+)")
_FOLLOWS = {"padding"}  # from the kernel, the dilation or the stride


def _exchange(edit: Edit, diffs: Sequence[Diff], arrow: str) -> str:
    """What of a layer is another than before, as ``kernel 3 → 5`` or ``ReLU → SiLU``; empty where no diff shows it."""
    for diff in diffs:
        held = [dict(_HELD.findall(text)) for text in (diff.before, diff.after)]
        if edit.host in diff.paths and all(edit.name in names for names in held):
            old, new = (names[edit.name] for names in held)
            classes = [text.partition("(")[0] for text in (old, new)]
            if classes[0] != classes[1]:
                return f"{classes[0]} {arrow} {edit.module or classes[1]}"
            before, after = dict(_GIVEN.findall(old)), dict(_GIVEN.findall(new))
            differing = [key for key in after if key in before and before[key] != after[key] and key not in _FOLLOWS]
            return ", ".join(
                f"{key.removesuffix('_size')} {_plain(before[key])} {arrow} {_plain(after[key])}" for key in differing
            )
    return ""


def _plain(value: str) -> str:
    """``(3, 3)`` as ``3``."""
    numbers = set(value.strip("()").replace(" ", "").strip(",").split(","))
    return numbers.pop() if len(numbers) == 1 else value


def _or_dash(number: int | None) -> str:
    return "-" if number is None else count(number)


def _wrap_code(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    rows = textwrap.wrap(line, max(width, 20), subsequent_indent=indent, drop_whitespace=True, replace_whitespace=False)
    return rows or [""]
