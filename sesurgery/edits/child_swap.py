"""What the structural edits share: their targets, and the exchange of one module of the model for another.

A plan holds a digest of every module that goes, and replays only where all of them are there again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.kinds import Proposal, Target
from sesurgery.errors import StalePlanError, Unfit
from sesurgery.operating.actions import Action, SetChild
from sesurgery.placement.named_layers import Layer, layers_of
from sesurgery.placement.sites import place_in
from sesurgery.plans import AttentionLayer, Diff, Edit, OtherConv, Skip, Substitute, Swap, SwapChild
from sesurgery.recipe.rules import Rule
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.costs import measure, parameters
from sesurgery.recording.nested import batch_of, shapes_in
from sesurgery.recording.recorder import Frame, has_own_forward
from sesurgery.substitutes.registry import Build, on_meta
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import outwards
from sesurgery.words.text import reason, told_anywhere


def named_targets(anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
    """Everything that a phrase names which speaks of a part of the model; the subject is a module or a gate."""
    if rule.at.role != "attention":
        for layer in layers_of(anatomy, rule.place):
            if isinstance(layer, Skip):
                yield layer
            elif layer.module is None:
                assert layer.host is not None
                yield Skip(layer.path, f"it is written in the forward of {type(layer.host).__name__}, and no layer")
            else:
                yield module_target(anatomy, layer.module, layer.path, layer)
        return
    for module in anatomy.attention_modules():
        yield module_target(anatomy, module, anatomy.survey.paths[module])
    for gate in anatomy.written_gates():
        holder = anatomy.survey.paths[gate.host]
        yield Target(place_in(anatomy, gate.host, gate.node), gate, holder, gate.node.meta["val"], node=gate.node)


def module_target(anatomy: Anatomy, module: nn.Module, path: str, layer: Layer | None = None) -> Target:
    """A module at one of its places, with the activation that it gives; a convolution is known by its host."""
    output = next((frame.output for frame in frames_of(anatomy.survey, module)), None)
    value = output if isinstance(output, torch.Tensor) else None
    holder = path if layer is None or layer.kernel is None else path.rpartition(".")[0]
    return Target(path, module, holder, value, layer)


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
    return hashlib.sha256(told_anywhere(module).encode()).hexdigest()[:12]


def swap(
    anatomy: Anatomy,
    path: str,
    new: Substitute,
    also: Mapping[str, Substitute] | None = None,
    *,
    module: str = "",
    notes: Sequence[str] = (),
    alone: bool = True,
) -> Proposal:
    """Exchange the module at ``path`` (and those of ``also``): tried out on the twin and measured.

    Args:
        alone: whether the forward must run with this exchange alone; else the edits of its rule are tried together.

    Raises:
        Unfit: it does not fit there.
    """
    survey = anatomy.survey
    wanted = {path: new, **(also or {})}
    olds = {place: survey.module(place) for place in wanted}
    news = {
        place: on_meta(each, olds[place], *(survey.module(source) for source in getattr(each, "sources", ())))
        for place, each in wanted.items()
    }
    if alone:
        try_out(survey, news)
    calls = survey.probe.calls.get(olds[path], 0)
    again = (f"called {calls} times in one forward: exchanged once",) if calls > 1 else ()
    return Proposal(
        path,
        SwapChild(tuple(Swap(place, digest(olds[place]), each) for place, each in wanted.items())),
        module or type(news[path]).__name__,
        *difference(survey, {olds[place]: news[place] for place in wanted}),
        notes=(*notes, *again),
    )


def difference(survey: Survey, exchanged: Mapping[nn.Module, nn.Module]) -> tuple[int, int]:
    """Parameters, and MACs for one sample, that modules bring in the place of others, in all their calls."""
    params = macs = 0
    for old, new in exchanged.items():
        params += parameters(new) - parameters(old)
        macs += sum(measure(new, *frame.args).macs - measure(old, *frame.args).macs for frame in frames_of(survey, old))
    return params, macs // batch_of(survey.args)


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


def try_together(survey: Survey, edits: Sequence[Edit]) -> None:
    """Run the whole model with the convolutions whose strides change. Raises ``Unfit`` where it fails."""
    swaps = [swap for edit in edits for swap in getattr(edit.change, "swaps", ())]
    if survey.real or not any(isinstance(swap.new, OtherConv) and swap.new.stride for swap in swaps):
        return
    saved = {swap.path: survey.module(swap.path) for swap in swaps}
    try:
        for swap in swaps:
            sources = [saved.get(path) or survey.module(path) for path in getattr(swap.new, "sources", ())]
            _put(survey, swap.path, on_meta(swap.new, saved[swap.path], *sources))
        with torch.no_grad():
            survey.twin(*survey.args)
    except Exception as error:
        raise Unfit(f"with these strides the forward of the model fails: {reason(error)}") from None
    finally:
        for path, old in saved.items():
            _put(survey, path, old)


def _caller(survey: Survey, module: nn.Module) -> nn.Module | None:
    """The nearest module around whose forward is code of its own: one that may look at more than calls."""
    for path in outwards(survey.paths[module])[1:-1]:
        outer = survey.module(path)
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
        raise Unfit(f"the forward of its {type(caller).__name__} fails with it: {reason(error)}") from None
    if shapes_in(output) != shapes_in(frame.output):
        raise Unfit(f"its {type(caller).__name__} would return another shape")


def swap_actions(survey: Survey, edits: Sequence[Edit]) -> tuple[list[Action], list[Diff]]:
    """The actions of exchanged children, with the lines that change in their hosts."""
    actions: list[Action] = []
    lines: dict[str, list[tuple[str, nn.Module, nn.Module]]] = defaultdict(list)
    for edit in edits:
        assert isinstance(edit.change, SwapChild)
        for swap in edit.change.swaps:
            old = _unchanged(survey, edit, swap.path, swap.was)
            sources = getattr(swap.new, "sources", ())
            host, _, name = swap.path.rpartition(".")
            is_attention = isinstance(swap.new, AttentionLayer)
            actions.append(SetChild(host, name, Build(swap.new, swap.path), attention=is_attention, sources=sources))
            new = on_meta(swap.new, old, *(survey.module(source) for source in sources))
            lines[host].append((name, old, new))
    return actions, [_diff(survey, host, changed) for host, changed in lines.items()]


def _unchanged(survey: Survey, edit: Edit, path: str, was: str) -> nn.Module:
    """The module that an edit exchanges. Raises ``StalePlanError`` unless it is the one that the plan was made for."""
    try:
        module = survey.module(path)
    except AttributeError:
        module = None
    if module is None or digest(module) != was:
        problem = f"{path} is not the module that the plan was made for"
        raise StalePlanError(problem, where=edit.path, remedy="plan again on this model")
    return module


def _diff(survey: Survey, host: str, changed: Sequence[tuple[str, nn.Module, nn.Module]]) -> Diff:
    before = "\n".join(f"{_attribute(name)} = {outline(old)}" for name, old, _ in changed)
    after = "\n".join(f"{_attribute(name)} = {outline(new)}" for name, _, new in changed)
    return Diff((host,), type(survey.module(host)).__name__, before, after)


def _attribute(name: str) -> str:
    return f"self[{name}]" if name.isdigit() else f"self.{name}"


_LINES = 8


def outline(module: nn.Module) -> str:
    """``repr`` where it is short; else the children, a line each, with what they hold."""
    whole = told_anywhere(module)
    if whole.count("\n") < _LINES:
        return whole
    extra = module.extra_repr()
    lines = [f"{type(module).__name__}(", *([f"  {extra}"] if extra else [])]
    lines += [f"  ({name}): {_brief(child)}" for name, child in module.named_children()]
    return "\n".join([*lines, f")  # {_size(module)}"])


def _brief(module: nn.Module) -> str:
    text = told_anywhere(module)
    if "\n" not in text:
        return text
    kinds = Counter(type(child).__name__ for child in module.children())
    inside = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{type(module).__name__}({inside})  # {_size(module)}"


def _size(module: nn.Module) -> str:
    return f"{parameters(module):,} parameters"
