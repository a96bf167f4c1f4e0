"""The error for a recipe that found no site: what came nearest, and why it was not taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.errors import NothingMatchedError
from sesurgery.plans import Skip
from sesurgery.recording.recorder import has_own_forward
from sesurgery.tracing.survey import Survey


def nothing_matched(recipe: str, model: str, anatomy: Anatomy, skips: Sequence[Skip]) -> NothingMatchedError:
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
    return NothingMatchedError(
        f'recipe "{recipe}" matched nothing in {model}; {miss}',
        remedy=f"sesurgery inspect {model} shows what there is, sesurgery recipes what could be done",
    )


def _left_whole(seen: Survey) -> list[str]:
    """The classes of torch that hold layers and run them in a forward of torch's own."""
    parts = (module for module in seen.probe.frames if not has_own_forward(module) and list(module.children()))
    return sorted({type(part).__name__ for part in parts if not isinstance(part, nn.Sequential)})
