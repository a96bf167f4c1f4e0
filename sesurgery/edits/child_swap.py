"""What the structural edits share: a module of the model gives its place to another one.

A plan holds a digest of every module that goes, and replays only where all of them are there again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.kinds import Proposal
from sesurgery.errors import Unfit
from sesurgery.plans import Substitute, Swap, SwapChild
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.costs import measure, parameters
from sesurgery.recording.nested import tensors_in
from sesurgery.recording.recorder import Frame
from sesurgery.substitutes.registry import on_meta
from sesurgery.tracing.survey import Survey, has_own_forward


def frames_of(survey: Survey, module: nn.Module) -> list[Frame]:
    """Every recorded call of a module, in order."""
    return survey.frames.get(module, [])


def input_of(survey: Survey, module: nn.Module) -> torch.Tensor:
    """The one activation that a module is called with. Raises ``Unfit`` where there is more to it."""
    frames = frames_of(survey, module)
    if not frames:
        raise Unfit("the forward never calls it")
    for frame in frames:
        if frame.kwargs or len(frame.args) != 1 or not isinstance(frame.args[0], torch.Tensor):
            raise Unfit(
                f"it is called with more than one activation, and a {type(module).__name__} is not simply one layer"
            )
        if not isinstance(frame.output, torch.Tensor):
            raise Unfit("it returns more than one activation")
    return frames[0].args[0]


def keeps_shape(survey: Survey, module: nn.Module) -> None:
    """Raise ``Unfit``, saying what removal would change, unless each output has its input's shape."""
    input_of(survey, module)
    for frame in frames_of(survey, module):
        before, after = frame.args[0], frame.output
        if before.shape == after.shape:
            continue
        axis = channel_axis(after)
        if axis is not None and before.ndim == after.ndim and before.shape[axis] != after.shape[axis]:
            raise Unfit(f"removal would change channels {before.shape[axis]} -> {after.shape[axis]}")
        raise Unfit(f"removal would change the shape {tuple(before.shape)} -> {tuple(after.shape)}")


def places(survey: Survey, module: nn.Module) -> list[str]:
    """The path of every place where a module hangs; hosts that hang twice count once."""
    by_host: dict[tuple[nn.Module, str], str] = {}
    for path in survey.mounts[module]:
        host, _, name = path.rpartition(".")
        by_host.setdefault((survey.module(host), name), path)
    return list(by_host.values())


def only_place(survey: Survey, module: nn.Module) -> None:
    """Raise ``Unfit`` for a module that is shared, or the whole model."""
    paths = places(survey, module)
    if len(paths) > 1:
        raise Unfit(f"it is shared by several hosts ({', '.join(paths[:3])}), which would part ways")
    if not paths[0]:
        raise Unfit("it is the whole model")


def digest(module: nn.Module) -> str:
    """What a plan remembers of a module that it exchanges: its layers and their sizes."""
    return hashlib.sha256(repr(module).encode()).hexdigest()[:12]


def swap(
    anatomy: Anatomy,
    path: str,
    new: Substitute,
    also: Mapping[str, Substitute] | None = None,
    *,
    module: str = "",
    notes: Sequence[str] = (),
) -> Proposal:
    """Exchange the module at ``path`` (and those of ``also``): tried out on the twin and measured. Raises ``Unfit``."""
    survey = anatomy.survey
    wanted = {path: new, **(also or {})}
    olds = {place: survey.module(place) for place in wanted}
    news = {
        place: on_meta(each, olds[place], *(survey.module(source) for source in getattr(each, "sources", ())))
        for place, each in wanted.items()
    }
    try_out(survey, news)
    calls = survey.probe.calls.get(olds[path], 0)
    again = (f"called {calls} times in one forward: exchanged once",) if calls > 1 else ()
    return Proposal(
        path,
        SwapChild(tuple(Swap(place, digest(olds[place]), each) for place, each in wanted.items())),
        module or type(news[path]).__name__,
        params=sum(parameters(news[place]) - parameters(olds[place]) for place in wanted),
        macs=sum(_macs(survey, news[place], olds[place]) for place in wanted),
        notes=(*notes, *again),
    )


def _macs(survey: Survey, new: nn.Module, old: nn.Module) -> int:
    return sum(measure(new, *frame.args).macs - measure(old, *frame.args).macs for frame in frames_of(survey, old))


def try_out(survey: Survey, news: Mapping[str, nn.Module]) -> None:
    """Run the forwards around the new modules on the twin. Raises ``Unfit`` where one fails or gives another shape."""
    if survey.real:
        return
    callers: dict[nn.Module, None] = {}
    for path in news:
        caller = _caller(survey, survey.module(path))
        if caller is not None:
            callers[caller] = None
    saved = {path: survey.module(path) for path in news}
    try:
        for path, new in news.items():
            _put(survey, path, new)
        for caller in callers:
            _runs(survey, caller)
    finally:
        for path, old in saved.items():
            _put(survey, path, old)


def _caller(survey: Survey, module: nn.Module) -> nn.Module | None:
    """The nearest module around whose forward is code of its own: one that may look at more than calls."""
    parts = survey.paths[module].split(".")
    for end in range(len(parts) - 1, 0, -1):
        outer = survey.module(".".join(parts[:end]))
        if has_own_forward(outer) and survey.frame(outer) is not None:
            return outer
    return None


def _put(survey: Survey, path: str, module: nn.Module) -> None:
    host, _, name = path.rpartition(".")
    survey.module(host)._modules[name] = module


def _runs(survey: Survey, caller: nn.Module) -> None:
    frame = survey.frame(caller)
    assert frame is not None
    try:
        with torch.no_grad(), torch.device("meta"):
            output = caller(*frame.args, **frame.kwargs)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0][:160]
        raise Unfit(
            f"the forward of its {type(caller).__name__} fails with it: {type(error).__name__}: {text}"
        ) from None
    if _shapes(output) != _shapes(frame.output):
        raise Unfit(f"its {type(caller).__name__} would return another shape")


def _shapes(value: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors_in(value)]
