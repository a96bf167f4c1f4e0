"""Attention that is there already: modules that gate what they are given, and gates written out in a host's forward."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.merges import Merge
from sesurgery.tracing.survey import hidden_in


def attention_modules(anatomy: Anatomy) -> list[nn.Module]:
    """The outermost modules that are attention, in the order of execution; those never called come last."""
    survey = anatomy.survey
    known = [module for module in anatomy.attention if survey.paths[module]]
    modules = [module for module in survey.probe.frames if module in set(known)]
    modules += [module for module in known if module not in survey.probe.frames]
    return [
        module for module in modules if not hidden_in(survey, module, [other for other in known if other is not module])
    ]


def written_gates(anatomy: Anatomy) -> Iterator[Merge]:
    """The gates in forwards of hosts that are no attention modules themselves."""
    modules = attention_modules(anatomy)
    for host, merges in anatomy.merges.items():
        if not hidden_in(anatomy.survey, host, modules):
            yield from (merge for merge in merges if merge.kind == "gate")
