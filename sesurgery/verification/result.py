"""What a verification says, as data and as text for people. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from sesurgery.report.layout import WIDTH, heading, html_as_text, new_table, plural, some, text_of
from sesurgery.report.plan import print_notes

RAN, EQUAL, DIFFERS, NOT_COMPARED, UNSTABLE = "ran", "equal", "differs", "not compared", "nondeterministic"


@dataclass(frozen=True)
class Difference:
    """One thing that the operated model does otherwise than the original.

    Attributes:
        case: the way of running in which it shows, ``"train, batch 2"``; ``"weights"`` or ``"layers"`` where nothing
            has to run.
        place: ``call``, ``output``, ``input`` (changed in place), ``gradient``, ``buffer``, ``attribute``,
            ``random numbers``, ``weight`` or ``layer``.
        path: where in the output (``[0]['boxes']``), or the name of the parameter, buffer, attribute or layer.
        kind: ``error``, ``type``, ``keys``, ``length``, ``dtype``, ``shape``, ``device``, ``requires_grad``,
            ``values``, ``missing``, ``new``, ``tie``, ``not called`` or ``called`` (too often).
        text: the difference in words.
        size: of ``values`` of numbers, the largest absolute difference (``inf`` where one side is no number).
    """

    case: str
    place: str
    path: str
    kind: str
    text: str
    size: float | None = None


@dataclass(frozen=True)
class Case:
    """One way in which both models were run.

    Attributes:
        name: ``"eval, batch 2"``.
        outcome: ``equal``, ``differs``, ``not compared`` (the original itself fails) or ``nondeterministic`` (the
            original differs from itself wherever the operated model differs from it); ``ran`` where there is no
            original.
        reason: why it was not compared, or what of it was not, in one line.
        exchanged: whether the inserted layers were exchanged for the identity, since as they are they change something.
    """

    name: str
    outcome: str
    reason: str = ""
    exchanged: bool = False


@dataclass(frozen=True)
class LayerUse:
    """What became of one inserted layer.

    Attributes:
        path: where it is.
        cls: its class; for one that is gone, its name in the registry.
        calls: how often one forward in eval mode called it.
        train_calls: the same in train mode; None where the model cannot be trained on the input.
        gradients: whether any of its parameters got a gradient in train mode; None where nobody could say.
        identity: whether it gave back exactly what it was given, each time.
    """

    path: str
    cls: str
    calls: int = 0
    train_calls: int | None = None
    gradients: bool | None = None
    identity: bool = False


@dataclass(frozen=True)
class Verification:
    """The result of :func:`sesurgery.verify`. True where nothing differs and every inserted layer is called.

    Attributes:
        model: class of the operated model.
        cases: the ways in which the models were run.
        differences: all that differs.
        unstable: where the original differs from itself, run twice from the same seeds; not among ``differences``.
        layers: the inserted layers.
        notes: what a user should know.
    """

    model: str
    cases: tuple[Case, ...]
    differences: tuple[Difference, ...] = ()
    unstable: tuple[Difference, ...] = ()
    layers: tuple[LayerUse, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.differences

    @property
    def identical(self) -> bool:
        """Nothing differs, and the inserted layers were left as they are: they are the identity now."""
        return bool(self) and not any(case.exchanged for case in self.cases)

    def __str__(self) -> str:
        return text_of(lambda console: render_verification(console, self), WIDTH)

    def _repr_html_(self) -> str:
        return html_as_text(self)


def render_verification(console: Console, result: Verification) -> None:
    """Print the cases, what differs, and which inserted layers do nothing."""
    heading(console, f"{result.model}: {_summary(result)}")
    console.print(_cases(console, result.cases, result.differences))
    if result.differences:
        console.print()
        heading(console, "what differs")
        console.print(_differences(console, result.differences))
    if result.unstable:
        console.print()
        heading(console, "where the original differs from itself, with equal seeds")
        console.print(_differences(console, result.unstable))
    if result.layers:
        console.print()
        heading(console, f"inserted layers: {len(result.layers)}")
        console.print(_layers(console, result.layers))
    print_notes(console, result.notes)


def _summary(result: Verification) -> str:
    if not result:
        return plural(len(result.differences), "difference")
    alone = all(case.outcome == RAN for case in result.cases if not case.reason)
    return "every inserted layer is called" if alone else "nothing differs"


def _cases(console: Console, cases: Sequence[Case], differences: Sequence[Difference]) -> Table:
    table = new_table(console, "case", "result", "")
    for case in cases:
        count = sum(difference.case == case.name for difference in differences)
        outcome = plural(count, "difference") if case.outcome == DIFFERS else case.outcome
        exchanged = "inserted layers exchanged for the identity" if case.exchanged else ""
        table.add_row(case.name, outcome, "; ".join(filter(None, (exchanged, case.reason))))
    return table


def _differences(console: Console, differences: Sequence[Difference]) -> Table:
    """One row for all that differs alike in one case."""
    table = new_table(console, "case", "place", "kind", "count", "where", "first of them", right=(3,))
    alike: dict[tuple[str, str, str], list[Difference]] = {}
    for one in differences:
        alike.setdefault((one.case, one.place, one.kind), []).append(one)
    for (case, place, kind), group in alike.items():
        paths = some(console, [one.path for one in group if one.path])
        table.add_row(case, place, kind, str(len(group)), paths, _worst(group).text)
    return table


def _worst(group: Sequence[Difference]) -> Difference:
    return max(group, key=lambda one: -math.inf if one.size is None else one.size)


def _layers(console: Console, layers: Sequence[LayerUse]) -> Table:
    """One row for layers that were used alike."""
    table = new_table(console, "class", "calls in eval", "in train", "gradients", "identity", "paths", right=(1, 2))
    alike: dict[LayerUse, list[str]] = {}
    for use in layers:
        key = LayerUse("", use.cls, use.calls, use.train_calls, use.gradients, use.identity)
        alike.setdefault(key, []).append(use.path)
    words = {True: "yes", False: "no", None: "-"}
    for use, paths in alike.items():
        train = "-" if use.train_calls is None else str(use.train_calls)
        row = (use.cls, str(use.calls), train, words[use.gradients], words[use.identity], some(console, paths))
        table.add_row(*row)
    return table
