"""A rehearsal: an operation performed on copies of a model, to see that it can be done and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy, dissect
from sesurgery.edits.driver import Step
from sesurgery.edits.insert import layer_cost
from sesurgery.operating.actions import Action
from sesurgery.operating.perform import perform
from sesurgery.plans import Cost, Diff, Edit, Insertion
from sesurgery.recording.costs import plus
from sesurgery.recording.recorder import run
from sesurgery.tracing.survey import Survey, survey
from sesurgery.tracing.trace import LOCK


class Rehearsal:
    """The copies of a model on which its operation is tried out. The model itself stays as it is.

    The survey holds the weightless copy, the copy with numbers (where the forward looks at values), and the recorded
    forward. A step is performed on the copies when they are looked at or run again.

    Args:
        model: any module.
        args: positional arguments of one forward.
        fresh: makes the model anew with numbers, for a model on ``meta`` whose forward turns out to look at values.

    Raises:
        ModelError: the model cannot be copied, or fails in forward with these arguments.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], fresh: Callable[[], nn.Module] | None = None) -> None:
        self.example = args
        self.survey: Survey = survey(model, args, fresh)
        self.steps: list[Step] = []
        self._anatomy: Anatomy | None = None
        self._waiting = Step()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits of all steps, in order."""
        return tuple(edit for step in self.steps for edit in step.edits)

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions of all steps, in order."""
        return tuple(action for step in self.steps for action in step.actions)

    @property
    def diffs(self) -> tuple[Diff, ...]:
        """What changes in the hosts, step by step."""
        return tuple(diff for step in self.steps for diff in step.diffs)

    def look(self) -> Anatomy:
        """What the copy is made of, behind the steps so far."""
        if self._waiting.actions:
            self._catch_up()
            body = self.survey.body
            self.survey = survey(self.survey.twin, self.survey.args, None if body is None else lambda: body)
            self._anatomy = None
        if self._anatomy is None:
            self._anatomy = dissect(self.survey)
        return self._anatomy

    def perform(self, step: Step) -> None:
        """Take a step. It was planned or replayed on what ``look`` gave."""
        self.steps.append(step)
        self._waiting = step

    def cost(self) -> Cost:
        """The cost of the copy as it is, from a forward of its own where a step has changed it."""
        if not self.actions:
            return self.survey.cost
        self._catch_up()
        body = self.survey.twin if self.survey.body is None else self.survey.body
        try:
            return run(body, self.survey.args, labels=False, device=False).cost
        except Exception:  # tensors that the forward makes have to lie where the input does
            return run(body, self.survey.args, labels=False).cost

    def cost_of_insertions(self) -> Cost | None:
        """The same cost by addition, where all there is is one step that puts in layers; else None.

        A layer keeps the shape, so everything else costs what it did.
        """
        edits = self._waiting.edits
        if len(self.steps) != 1 or not all(isinstance(edit.change, Insertion) for edit in edits):
            return None
        return cost_with(self.survey, edits)

    def _catch_up(self) -> None:
        with LOCK, torch.random.fork_rng(devices=[]):
            for copy in filter(None, (self.survey.twin, self.survey.body)):
                perform(copy, self._waiting.actions)
        self._waiting = Step()


def cost_with(survey: Survey, edits: Iterable[Edit]) -> Cost:
    """The cost of a model with layers put in, by addition: layers keep shapes, so all else costs what it did."""
    total = survey.cost
    for edit in edits:
        assert isinstance(edit.change, Insertion)
        total = plus(total, layer_cost(survey, edit.change.layer), survey.probe.calls.get(survey.module(edit.host), 1))
    return total
