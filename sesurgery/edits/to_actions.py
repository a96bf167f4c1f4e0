"""From edits to actions, and to the lines that change in their hosts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import digest
from sesurgery.edits.insert_code import diff_of, forward_action, name_of
from sesurgery.edits.written_gates import bypass_actions
from sesurgery.errors import StalePlanError, Unfit, UnfitHost
from sesurgery.operating.actions import Action, SetChild
from sesurgery.operating.operated_class import Code
from sesurgery.plans import AttentionLayer, BypassGate, Diff, Edit, Insertion, SwapChild
from sesurgery.recording.costs import parameters
from sesurgery.substitutes.registry import Build, on_meta
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey


def realise(anatomy: Anatomy, edits: Iterable[Edit]) -> tuple[list[Action], list[Diff]]:
    """What has to be done: children to exchange, then layers and new forwards host by host.

    Raises:
        StalePlanError: the model is not what the edits were made for.
        UnfitHost: a host cannot be given a new forward.
    """
    survey = anatomy.survey
    hosts: dict[str, list[Edit]] = defaultdict(list)
    swaps: list[Edit] = []
    for edit in edits:
        _verify(survey, edit)
        (swaps if isinstance(edit.change, SwapChild) else hosts[edit.host]).append(edit)
    actions, diffs = _swapped(survey, swaps)
    cache: dict[Any, Code] = {}
    for path, group in hosts.items():
        try:
            more, diff = _on_host(anatomy, path, group, cache)
        except Unfit as reason:
            raise UnfitHost(path, str(reason)) from None
        actions += more
        diffs.append(diff)
    return actions, diffs


def _on_host(anatomy: Anatomy, path: str, edits: Sequence[Edit], cache: dict[Any, Code]) -> tuple[list[Action], Diff]:
    host = anatomy.survey.module(path)
    gates = [edit for edit in edits if isinstance(edit.change, BypassGate)]
    if gates:
        return bypass_actions(anatomy, host, gates)
    actions: list[Action] = [
        SetChild(path, name_of(edit), Build(edit.change.layer, edit.path), attention=True)
        for edit in edits
        if isinstance(edit.change, Insertion)
    ]
    forward = forward_action(anatomy, host, edits, cache)
    return [*actions, *([forward] if forward is not None else [])], diff_of(anatomy.survey, host, edits)


def _swapped(survey: Survey, edits: Sequence[Edit]) -> tuple[list[Action], list[Diff]]:
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
        what = f"{path} is not the module that the plan was made for"
        raise StalePlanError(what, where=edit.path, remedy="plan again on this model")
    return module


def _verify(survey: Survey, edit: Edit) -> None:
    """Raise ``StalePlanError`` unless the host of an edit is in this model what the plan was made for."""
    remedy = "plan again on this model"
    try:
        host = survey.module(edit.host)
    except AttributeError:
        what = f"the plan wants to operate on {edit.host}, and this model has no such module"
        raise StalePlanError(what, where=edit.path, remedy=remedy) from None
    if fingerprint(survey, host) != edit.fingerprint:
        what = "the forward of its host is not the one that the plan was made for"
        raise StalePlanError(what, where=edit.path, remedy=remedy)


def _diff(survey: Survey, host: str, changed: Sequence[tuple[str, nn.Module, nn.Module]]) -> Diff:
    before = "\n".join(f"{_attribute(name)} = {outline(old)}" for name, old, _ in changed)
    after = "\n".join(f"{_attribute(name)} = {outline(new)}" for name, _, new in changed)
    return Diff((host,), type(survey.module(host)).__name__, before, after)


def _attribute(name: str) -> str:
    return f"self[{name}]" if name.isdigit() else f"self.{name}"


_LINES = 8


def outline(module: nn.Module) -> str:
    """``repr`` where it is short; else the children, a line each, with what they hold."""
    whole = repr(module)
    if whole.count("\n") < _LINES:
        return whole
    extra = module.extra_repr()
    lines = [f"{type(module).__name__}(", *([f"  {extra}"] if extra else [])]
    lines += [f"  ({name}): {_brief(child)}" for name, child in module.named_children()]
    return "\n".join([*lines, f")  # {_size(module)}"])


def _brief(module: nn.Module) -> str:
    text = repr(module)
    if "\n" not in text:
        return text
    kinds = Counter(type(child).__name__ for child in module.children())
    inside = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{type(module).__name__}({inside})  # {_size(module)}"


def _size(module: nn.Module) -> str:
    return f"{parameters(module):,} parameters"
