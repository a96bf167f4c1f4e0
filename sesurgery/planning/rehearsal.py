"""A rehearsal: an operation performed on copies of a model, to see that it can be done and what it costs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy, dissect
from sesurgery.edits.driver import Step
from sesurgery.operating.actions import Action
from sesurgery.operating.perform import perform
from sesurgery.plans import Cost, Diff, Edit
from sesurgery.recording.recorder import count
from sesurgery.tracing.meta_copy import twin_of
from sesurgery.tracing.same_structure import Structures
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
        self._waiting, self._stale = Step(), False

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
        self._catch_up()
        if self._stale:
            body = self.survey.body
            self.survey = survey(self.survey.twin, self.survey.args, None if body is None else lambda: body)
            self._anatomy, self._stale = None, False
        if self._anatomy is None:
            self._anatomy = dissect(self.survey)
        return self._anatomy

    def perform(self, step: Step) -> None:
        """Take a step. It was planned or replayed on what ``look`` gave."""
        self.steps.append(step)
        self._waiting = step

    def cost(self) -> Cost:
        """The cost of the copy as it is, from a forward of its own where a step has changed it."""
        body = self.performed()
        return counted(body, self.survey.args) if self._stale else self.survey.cost

    def performed(self) -> nn.Module:
        """The copy that runs, with all steps performed on it."""
        self._catch_up()
        return self.survey.twin if self.survey.body is None else self.survey.body

    def _catch_up(self) -> None:
        if not self._waiting.actions:
            return
        with LOCK, torch.random.fork_rng(devices=[]):
            for body in (self.survey.twin, self.survey.body):
                if body is not None:  # not "if body": a model may have a length
                    perform(body, self._waiting.actions)
        self._waiting, self._stale = Step(), True


def cost_with(survey: Survey, actions: Sequence[Action]) -> Cost:
    """The cost of a model behind some actions, from a forward of a copy of its own."""
    with LOCK, torch.random.fork_rng(devices=[]):
        body = twin_of(survey.twin, survey.hooked) if survey.body is None else copy.deepcopy(survey.body)
        perform(body, actions)
    return counted(body, survey.args)


def counted(body: nn.Module, args: tuple[Any, ...]) -> Cost:
    """The cost of a private copy. Tensors that its forward makes may have to lie where the input does."""
    with contextlib.suppress(Exception):
        return count(body, args, device=False, structure=Structures(body).of)
    with contextlib.suppress(Exception):
        return count(body, args)
    return count(body, args, gradients=False)
