"""The edit ``replace``: a convolution's kernel or dilation, an activation, a norm, or the node itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers import SelectiveKernel
from torch import nn

from sesurgery import attention
from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.existing_attention import attention_modules, written_gates
from sesurgery.anatomy.merges import Merge
from sesurgery.attention.activations import act_class
from sesurgery.edits.child_swap import (
    child_edit,
    digest,
    frames_of,
    guarded,
    input_of,
    only_place,
    places,
    wanted_facts,
)
from sesurgery.edits.kinds import edit_kind
from sesurgery.edits.to_actions import realise
from sesurgery.edits.written_gates import gate_edit_site, strip_host
from sesurgery.errors import Unfit
from sesurgery.operating.actions import Realised
from sesurgery.placement.inherited_options import resolve
from sesurgery.placement.named_layers import layers_of, too_few
from sesurgery.plans import Edit, Skip
from sesurgery.recipe.rules import Replace, Rule
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.costs import measure, parameters
from sesurgery.substitutes import convolution as conv_change
from sesurgery.substitutes.norm_activation import convolves, is_norm_of
from sesurgery.substitutes.registry import Make
from sesurgery.tracing.fingerprint import fingerprint


@edit_kind
class ReplaceKind:
    """Puts something else in the place of what ``at:`` names."""

    action = "replace"

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """What would take which place, or the reason why it cannot."""
        paths = anatomy.survey.paths
        if rule.at.role == "attention":
            for module in attention_modules(anatomy):
                yield from guarded(paths[module], rule, lambda found=module: [_attention(anatomy, rule, found)])
            for gate in written_gates(anatomy):
                where = f"{paths[gate.host]}.{gate.node.name}".strip(".")
                yield from guarded(where, rule, lambda found=gate: [_gate(anatomy, rule, found)])
            return
        yield from too_few(anatomy, rule)
        for module in layers_of(anatomy, rule.at):
            yield from guarded(paths[module], rule, lambda found=module: _layer(anatomy, rule, found))

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """Children to exchange and forwards to generate."""
        return realise(anatomy, edits)


def _edit(rule: Rule) -> Replace:
    edit = rule.edit
    assert isinstance(edit, Replace)
    return edit


def _layer(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Iterator[Edit]:
    target = _edit(rule).target
    if target == "activation":
        yield from _activation(anatomy, rule, module)
    elif target == "norm":
        yield _norm(anatomy, rule, module)
    elif target == "module":
        yield _conv_by_node(anatomy, rule, module)
    else:
        yield _conv(anatomy, rule, module)


def _facts(anatomy: Anatomy, rule: Rule, module: nn.Module) -> SiteFacts:
    survey = anatomy.survey
    path = survey.paths[module]
    frames = frames_of(survey, module)
    value = frames[0].output if frames and isinstance(frames[0].output, torch.Tensor) else None
    if rule.at.role == "conv":
        return wanted_facts(anatomy, rule, path.rpartition(".")[0], value, module)
    return wanted_facts(anatomy, rule, path, value, None)


def _conv(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Edit:
    survey, edit = anatomy.survey, _edit(rule)
    found = _facts(anatomy, rule, module)
    input_of(survey, module)
    only_place(survey, module)
    options = conv_change.settled(module, frames_of(survey, module), edit.kernel, edit.dilation, edit.embed)
    notes = conv_change.notes(module, options)
    return child_edit(anatomy, rule, found, survey.paths[module], Make("conv", options), notes=notes)


def _activation(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Iterator[Edit]:
    survey, name = anatomy.survey, _edit(rule).activation
    assert name is not None
    found = _facts(anatomy, rule, module)
    input_of(survey, module)
    if isinstance(module, _class_of(name)):
        raise Unfit(f"it is a {type(module).__name__} already")
    if list(module.parameters()):
        only_place(survey, module)
    make = Make("activation", {"activation": name})
    first, *others = (".".join(filter(None, place)) for place in places(survey, module))
    yield child_edit(anatomy, rule, found, first, make)
    for path in others:
        yield child_edit(anatomy, rule, found, path, make)


def _class_of(name: str) -> type[nn.Module]:
    with torch.device("meta"):
        return type(act_class(name)())


def _norm(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Edit:
    survey, kind = anatomy.survey, _edit(rule).norm
    assert kind is not None
    found = _facts(anatomy, rule, module)
    value = input_of(survey, module)
    only_place(survey, module)
    axis = channel_axis(value)
    if is_norm_of(module, kind):
        raise Unfit(f"it is a {kind} norm already ({type(module).__name__})")
    if axis is None:
        raise Unfit(f"which axis of {tuple(value.shape)} holds the channels cannot be derived")
    make = Make("norm", {"norm": kind, "shape": list(value.shape), "axis": axis})
    return child_edit(anatomy, rule, found, survey.paths[module], make, notes=("the function changes: another norm",))


def _conv_by_node(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Edit:
    survey, edit = anatomy.survey, _edit(rule)
    assert edit.module is not None
    found = _facts(anatomy, rule, module)
    value = input_of(survey, module)
    only_place(survey, module)
    name = attention.canonical(edit.module)
    _check_first(survey.twin, survey.paths[module], name)
    if convolves(name):
        settings = _settings(anatomy, edit, module, attention.Port(tuple(value.shape), 1))
        if not isinstance(module, nn.Conv2d) or len(set(module.stride)) > 1 or max(module.dilation) > 1:
            raise Unfit(f"a {name} takes the place of a 2-D convolution with one stride and without dilation")
        make = Make("selective kernel", {"module": name, "settings": settings})
    else:
        make = _node(anatomy, edit, module, value)
        if any(frame.output.shape != frame.args[0].shape for frame in frames_of(survey, module)):
            raise Unfit(f"a {name} keeps the shape, and this convolution changes it")
    return child_edit(anatomy, rule, found, survey.paths[module], make, module=name)


def _check_first(twin: nn.Module, path: str, name: str) -> None:
    parts = path.split(".")
    around = [twin.get_submodule(".".join(parts[:end])) for end in range(len(parts))]
    if type(twin.get_submodule(path)) is nn.Identity:
        raise Unfit("it was removed already")
    if any(isinstance(outer, SelectiveKernel) for outer in around):
        raise Unfit(f"it is a part of a selective kernel, which {name} would not leave one")


def _settings(anatomy: Anatomy, edit: Replace, module: nn.Module, port: attention.Port) -> dict[str, Any]:
    assert edit.module is not None
    caller = anatomy.survey.callers.get(module)
    host = caller[0] if caller is not None else module
    return resolve(anatomy, edit.module, edit.options, host, port)


def _node(anatomy: Anatomy, edit: Replace, module: nn.Module, value: torch.Tensor) -> Make:
    """A node of the registry for the activation that a module takes. Raises ``Unfit``."""
    assert edit.module is not None
    axis = channel_axis(value)
    if axis is None or axis == 0:
        raise Unfit(f"which axis of {tuple(value.shape)} holds the channels cannot be derived")
    port = attention.Port(tuple(value.shape), axis)
    settings = _settings(anatomy, edit, module, port)
    name = attention.canonical(edit.module)
    reason = attention.refusal(name, port, settings)
    if reason:
        raise Unfit(reason)
    return Make("node", {"module": name, "settings": settings, "shape": list(port.shape), "axis": axis, "node": True})


def _attention(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Edit:
    survey, edit = anatomy.survey, _edit(rule)
    found = _facts(anatomy, rule, module)
    value = input_of(survey, module)
    only_place(survey, module)
    if any(frame.output.shape != frame.args[0].shape for frame in frames_of(survey, module)):
        raise Unfit(f"this {type(module).__name__} does more than gate: its output has another shape than its input")
    make = _node(anatomy, edit, module, value)
    if _same(make.on_meta(module), module):
        raise Unfit(f"already has attention: {make.options['module']}")
    _check_name(edit, survey.paths[module])
    return child_edit(anatomy, rule, found, survey.paths[module], make, module=str(make.options["module"]))


def _same(one: nn.Module, two: nn.Module) -> bool:
    return type(one) is type(two) and digest(one) == digest(two)


def _check_name(edit: Replace, path: str) -> None:
    old = path.rpartition(".")[2]
    if edit.name is not None and edit.name != old:
        raise Unfit(f'its host calls it "{old}", so it cannot be called "{edit.name}"; leave name out')


def _gate(anatomy: Anatomy, rule: Rule, gate: Merge) -> Edit:
    """A gate written in a forward: the forward is rewritten so that it calls a child instead."""
    survey, edit = anatomy.survey, _edit(rule)
    assert edit.module is not None
    assert gate.identity is not None
    host, path = gate.host, survey.paths[gate.host]
    value: torch.Tensor = gate.identity.meta["val"]
    found = wanted_facts(anatomy, rule, path, value, None)
    make = _node(anatomy, edit, host, value)
    child = _free(host, edit.name or attention.child_name(edit.module))
    stripped = strip_host(anatomy, host, [(gate.node.name, child)])
    gone = [host.get_submodule(name) for name in stripped.spare]
    cost = measure(make.on_meta(host), torch.empty(value.shape, device="meta"))
    block = anatomy.block_of(path)
    return Edit(
        action="replace",
        path=f"{path}.{child}" if path else child,
        at=str(rule.at),
        host=path,
        stage=found.stage,
        block=survey.paths[block] if block is not None else None,
        channels=found.channels,
        module=str(make.options["module"]),
        options={**make.options, "change": "node"},
        means="graph",
        site=gate_edit_site(gate, child),
        fingerprint=fingerprint(survey, host),
        params=cost.params - sum(parameters(module) for module in gone),
        macs=(cost.macs - stripped.macs) * max(1, survey.probe.calls.get(host, 1)),
        notes=("a gate written in the forward: the forward is rewritten to call a module",),
    )


def _free(host: nn.Module, wanted: str) -> str:
    names = (wanted, *(f"{wanted}_{number}" for number in range(2, 1000)))
    return next(name for name in names if not hasattr(host, name))
