"""The edit ``replace``: a convolution's kernel, dilation or stride, an activation, a norm, or the layer itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import SelectiveKernel
from torch import nn

from sesurgery import attention
from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.merges import Merge
from sesurgery.attention import map_attention
from sesurgery.attention.activations import act_class
from sesurgery.edits.child_swap import (
    digest,
    frames_of,
    input_of,
    module_target,
    named_targets,
    only_place,
    places,
    swap,
)
from sesurgery.edits.kinds import Proposal, Target, edit_kind
from sesurgery.edits.written_gates import bypass
from sesurgery.errors import Unfit
from sesurgery.placement.inherited_options import layer_of, port_of, resolve, size_notes
from sesurgery.plans import AttentionLayer, OtherActivation, OtherNorm, SelectiveConv, Skip
from sesurgery.recipe.rules import Replace, Rule
from sesurgery.substitutes import convolution
from sesurgery.substitutes.norm_activation import convolves, is_norm_of
from sesurgery.substitutes.registry import on_meta
from sesurgery.tracing.survey import Survey
from sesurgery.words.paths import outwards


@edit_kind
class ReplaceKind:
    """Puts something else in the place of what ``at:`` names."""

    action = "replace"

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
        """What ``at:`` names; an activation that several hosts share is exchanged in each of them."""
        for target in named_targets(anatomy, rule):
            if isinstance(target, Target) and rule.at.name == "activation":
                for path in places(anatomy.survey, target.subject):
                    yield module_target(anatomy, target.subject, path, target.layer)
            else:
                yield target

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """What takes its place."""
        edit = rule.edit
        assert isinstance(edit, Replace)
        if isinstance(target.subject, Merge):
            return _gate(anatomy, edit, target.subject)
        value = input_of(anatomy.survey, target.subject)
        if edit.activation is not None:
            return _activation(anatomy, edit.activation, target)
        only_place(anatomy.survey, target.subject)
        if edit.norm is not None:
            return _norm(anatomy, edit, target, value)
        if edit.module is None:
            return _conv(anatomy, edit, target)
        if rule.at.role == "attention":
            return _attention(anatomy, edit, target, value)
        return _conv_by_layer(anatomy, edit, target, value)


def _conv(anatomy: Anatomy, edit: Replace, target: Target) -> Proposal:
    frames = frames_of(anatomy.survey, target.subject)
    wanted = convolution.Wanted(edit.kernel, edit.dilation, edit.stride, edit.embed)
    new = convolution.settled(target.subject, frames, wanted)
    return swap(anatomy, target.path, new, notes=convolution.notes(target.subject, new), alone=not new.stride)


def _activation(anatomy: Anatomy, name: str, target: Target) -> Proposal:
    with torch.device("meta"):
        kind = type(act_class(name)())
    if isinstance(target.subject, kind):
        raise Unfit(f"it is a {type(target.subject).__name__} already")
    if list(target.subject.parameters()):
        only_place(anatomy.survey, target.subject)
    return swap(anatomy, target.path, OtherActivation(name), notes=("the function changes: another activation",))


def _norm(anatomy: Anatomy, edit: Replace, target: Target, value: torch.Tensor) -> Proposal:
    kind = edit.norm
    assert kind is not None
    if is_norm_of(target.subject, kind, edit.groups):
        raise Unfit(f"it is a {kind} norm already ({type(target.subject).__name__})")
    port = port_of(value)
    new = OtherNorm(kind, port.shape, port.axis, edit.groups or 0)
    return swap(anatomy, target.path, new, notes=("the function changes: another norm",))


def _conv_by_layer(anatomy: Anatomy, edit: Replace, target: Target, value: torch.Tensor) -> Proposal:
    assert edit.module is not None
    module, name = target.subject, attention.canonical(edit.module)
    _check_first(anatomy.survey.twin, target.path, name)
    if convolves(name):
        options = _options(anatomy, edit, module, attention.Port(tuple(value.shape), 1))
        if not isinstance(module, nn.Conv2d) or len(set(module.stride)) > 1 or max(module.dilation) > 1:
            raise Unfit(f"a {name} takes the place of a 2-D convolution with one stride and without dilation")
        return swap(anatomy, target.path, SelectiveConv(options, name), module=name)
    new = _layer(anatomy, edit, module, value)
    if not _keeps(anatomy.survey, module):
        kind = "convolution" if isinstance(module, nn.Conv2d) else type(module).__name__
        raise Unfit(f"a {name} keeps the shape, and this {kind} changes it")
    return swap(anatomy, target.path, new, module=name, notes=size_notes(new))


def _check_first(twin: nn.Module, path: str, name: str) -> None:
    around = [twin.get_submodule(outer) for outer in outwards(path)[1:]]
    if type(twin.get_submodule(path)) is nn.Identity:
        raise Unfit("it was removed already")
    if any(isinstance(outer, (SelectiveKernel, map_attention.SelectiveConv)) for outer in around):
        raise Unfit(f"it is a part of a selective kernel, which {name} would not leave one")


def _keeps(survey: Survey, module: nn.Module) -> bool:
    return all(frame.output.shape == frame.args[0].shape for frame in frames_of(survey, module))


def _options(anatomy: Anatomy, edit: Replace, module: nn.Module, port: attention.Port) -> dict[str, Any]:
    assert edit.module is not None
    caller = anatomy.survey.callers.get(module)
    return resolve(anatomy, edit.module, edit.options, caller[0] if caller is not None else module, port)


def _layer(anatomy: Anatomy, edit: Replace, module: nn.Module, value: torch.Tensor) -> AttentionLayer:
    """A layer of the registry for the activation that a module takes. Raises ``Unfit``."""
    assert edit.module is not None
    port = port_of(value)
    return layer_of(edit.module, port, _options(anatomy, edit, module, port))


def _attention(anatomy: Anatomy, edit: Replace, target: Target, value: torch.Tensor) -> Proposal:
    module = target.subject
    if not _keeps(anatomy.survey, module):
        raise Unfit(f"this {type(module).__name__} does more than gate: its output has another shape than its input")
    new = _layer(anatomy, edit, module, value)
    layer = on_meta(new, module)
    if type(layer) is type(module) and digest(layer) == digest(module):
        raise Unfit(f"already has attention: {new.module}")
    name = target.path.rpartition(".")[2]
    if edit.name not in (None, name):
        raise Unfit(f'its host calls it "{name}", so it cannot be called "{edit.name}"; leave name out')
    return swap(anatomy, target.path, new, module=new.module, notes=size_notes(new))


def _gate(anatomy: Anatomy, edit: Replace, gate: Merge) -> Proposal:
    """A gate written in a forward: the forward is rewritten so that it calls a child instead."""
    assert edit.module is not None
    assert gate.identity is not None
    layer = _layer(anatomy, edit, gate.host, gate.identity.meta["val"])
    wanted = edit.name or attention.child_name(edit.module)
    names = (wanted, *(f"{wanted}_{number}" for number in range(2, 1000)))
    given: dict[str, str] = anatomy.survey.memo.setdefault(("names of gates", gate.host), {})
    if gate.node.name not in given:
        free = (name for name in names if not hasattr(gate.host, name) and name not in given.values())
        given[gate.node.name] = next(free)
    return bypass(anatomy, gate, layer, given[gate.node.name])
