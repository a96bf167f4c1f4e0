"""The error for a recipe that found no site: what came nearest, and why it was not taken."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.errors import NothingMatchedError, either, nearest
from sesurgery.plans import Skip
from sesurgery.recipe.rules import Recipe
from sesurgery.recording.recorder import has_own_forward
from sesurgery.tracing.survey import Survey


def nothing_matched(recipe: Recipe, model: str, anatomy: Anatomy, skips: Sequence[Skip]) -> NothingMatchedError:
    """The error for a recipe without a site, with the nearest miss."""
    meant = [skip for skip in skips if skip.meant]
    if skips:
        skips = meant or skips
        (reason, count), *_ = Counter(skip.reason for skip in skips).most_common(1)
        first = next(skip for skip in skips if skip.reason == reason)
        more = f" (and {count - 1} more like it)" if count > 1 else ""
        miss = f"nearest miss: {first.path or 'the model'}{more}: {reason}"
    else:
        kinds = sorted({f"{merge.kind} {merge.op}" for merge in anatomy.reported_merges()})
        miss = f"the model has {', '.join(kinds) if kinds else 'no merges'}"
        whole = _left_whole(anatomy.survey)
        if whole:
            miss += f"; torch's own {', '.join(whole)}: left whole, no sites inside"
    for name, near in _unknown_classes(recipe, anatomy.survey):
        miss = f'it has no module of class "{name}"; ' + (f"did you mean {either(near)}?" if near else miss)
    return NothingMatchedError(
        f'recipe "{recipe.name}" matched nothing in {model}; {miss}',
        remedy=f"sesurgery inspect {model} shows what there is, sesurgery recipes what could be done",
    )


def _unknown_classes(recipe: Recipe, seen: Survey) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The classes that a recipe names and the model does not have, and those that are nearest."""
    kinds = {type(module).__name__ for module in seen.paths}
    for rule in recipe.rules:
        for name in (*(rule.where.type or ()), *(rule.where.inside or ())):
            if not any(fnmatch.fnmatchcase(kind, name) for kind in kinds):
                yield name, nearest(name, kinds)


def _left_whole(seen: Survey) -> list[str]:
    """The classes of torch that hold layers and run them in a forward of torch's own."""
    parts = (module for module in seen.probe.frames if not has_own_forward(module) and list(module.children()))
    return sorted({type(part).__name__ for part in parts if not isinstance(part, nn.Sequential)})
