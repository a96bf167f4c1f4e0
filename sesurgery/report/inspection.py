"""The anatomy of a model as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sesurgery.report.layout import count, dots, heading, new_table, si, sizes, some

if TYPE_CHECKING:
    from sesurgery.plans import Inspection, MergeInfo, Stage, Untraced

PAPER_HINT = "The SENet paper counts stages as convN_x: its SE_Stage_4 (conv4_x) is stage 3 here. "
PAPER_STAGES = 4


def render_inspection(console: Console, inspection: Inspection, *, shell: bool = True) -> None:
    """Print stages, merges and what could not be traced.

    Args:
        shell: for somebody who types commands, and not Python.
    """
    traced, stages = inspection.traced, len(inspection.stages)
    heading(
        console,
        f"{inspection.model}: stages {stages}, merges {len(inspection.merges)}, "
        f"modules traced {traced} of {traced + len(inspection.untraced)}, input {sizes(inspection.inputs)}",
    )
    if inspection.stages:
        console.print(stages_table(console, inspection.stages))
        hint = PAPER_HINT if _as_in_the_paper(inspection) else ""
        console.print(Text(f"{hint}{'--stages' if shell else 'stages='} takes the numbers of this table.", style="dim"))
    if inspection.cost is not None and inspection.stage_costs:
        console.print()
        heading(console, f"cost of one forward pass of one sample, {sizes(inspection.inputs)}")
        console.print(costs_table(console, inspection))
    if inspection.recipe_costs:
        console.print()
        heading(console, "what each recipe would add, for one sample")
        console.print(recipes_table(console, inspection))
    console.print()
    heading(console, "merges: where branches meet")
    console.print(merges_table(console, inspection.merges) if inspection.merges else "none")
    if inspection.untraced:
        console.print()
        heading(console, "not traced (no site in their own forward; their children are looked at all the same)")
        console.print(untraced_table(console, inspection.untraced))


def _as_in_the_paper(inspection: Inspection) -> bool:
    """Whether the backbone is a residual network of four stages: the SENet paper counts the stages of no other."""
    stages = {stage.index for stage in inspection.stages if stage.region == "backbone"}
    residual = {merge.stage for merge in inspection.merges if merge.op == "add" and merge.kind == "identity"}
    return len(stages) == PAPER_STAGES and stages <= residual


def stages_table(console: Console, stages: Sequence[Stage]) -> Table:
    """Region, stage, resolution and blocks, one row per stage."""
    head = ("region", "stage", "reduction", "height x width", "blocks", "paths")
    table = new_table(console, *head, right=(1, 2, 3, 4))
    for stage in stages:
        reduction = "-" if stage.reduction is None else f"{stage.reduction:g}"
        size = "-" if stage.height is None or stage.width is None else f"{stage.height} x {stage.width}"
        paths = _first_to_last(console, stage.blocks)
        table.add_row(stage.region, str(stage.index), reduction, size, str(len(stage.blocks)), paths)
    return table


def costs_table(console: Console, inspection: Inspection) -> Table:
    """What the blocks of each stage cost, what lies elsewhere, and all."""
    table = new_table(
        console, "stage", "params", "MACs", "", "activation bytes", "", "weight bytes", right=(0, 1, 2, 3, 4, 5, 6)
    )
    whole, stages = inspection.cost, inspection.stage_costs
    assert whole is not None
    several = len({stage.region for stage in inspection.stages}) > 1
    names = [f"{stage.region} {stage.index}" if several else str(stage.index) for stage in inspection.stages]
    rest = {key: getattr(whole, key) - sum(getattr(cost, key) for cost in stages) for key in _COSTS}
    rows = [{key: getattr(cost, key) for key in _COSTS} for cost in (*stages, whole)]
    for name, row in zip((*names, "elsewhere", "all"), (*rows[:-1], rest, rows[-1]), strict=True):
        params, macs, kept, size = (row[key] for key in _COSTS)
        shares = (_share(macs, whole.macs), _share(kept, whole.activation_bytes))
        table.add_row(name, count(params), si(macs), shares[0], si(kept), shares[1], si(size))
    return table


def recipes_table(console: Console, inspection: Inspection) -> Table:
    """Edits, parameters and MACs of the shipped recipes that find a place."""
    table = new_table(console, "recipe", "edits", "params", "", "MACs", "", right=(1, 2, 3, 4, 5))
    whole = inspection.cost
    assert whole is not None
    for row in inspection.recipe_costs:
        params, macs = _share(row.params, whole.params), _share(row.macs, whole.macs)
        table.add_row(row.recipe, str(row.edits), count(row.params, sign=True), params, si(row.macs, sign=True), macs)
    return table


_COSTS = ("params", "macs", "activation_bytes", "weight_bytes")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def merges_table(console: Console, merges: Sequence[MergeInfo]) -> Table:
    """Merges, alike ones of one stage in one row."""
    table = new_table(console, "region", "stage", "op", "kind", "channels", "count", "paths", right=(1, 4, 5))
    alike: dict[tuple[str, int | None, str, str], list[MergeInfo]] = {}
    for merge in merges:
        alike.setdefault((merge.region, merge.stage, merge.op, merge.kind), []).append(merge)
    for (region, stage, op, kind), group in alike.items():
        paths = list(dict.fromkeys(merge.path or "(model)" for merge in group))
        where = "-" if stage is None else str(stage)
        channels = _range(merge.channels for merge in group)
        table.add_row(region, where, op, kind, channels, str(len(group)), _first_to_last(console, paths))
    return table


def untraced_table(console: Console, untraced: Sequence[Untraced]) -> Table:
    """Modules whose forward could not be traced, one row per class and reason."""
    table = new_table(console, "class", "reason", "count", "paths", right=(2,))
    alike: dict[tuple[str, str], list[str]] = {}
    for module in untraced:
        alike.setdefault((module.cls, module.reason), []).append(module.path or "(model)")
    for (cls, reason), paths in alike.items():
        table.add_row(cls, reason, str(len(paths)), some(console, paths))
    return table


def _first_to_last(console: Console, paths: Sequence[str]) -> str:
    if len(paths) <= 2:
        return ", ".join(path or "(model)" for path in paths)
    return f"{paths[0]} {dots(console)} {paths[-1]}"


def _range(channels: Iterable[int | None]) -> str:
    known = sorted({number for number in channels if number is not None})
    if not known:
        return "-"
    return count(known[0]) if len(known) == 1 else f"{count(known[0])}-{count(known[-1])}"
