"""What the structural edits may change: layers, attention modules and gates that are written in a forward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.existing_attention import attention_modules, written_gates
from sesurgery.edits.child_swap import frames_of
from sesurgery.edits.kinds import Target
from sesurgery.placement.named_layers import layers_of, too_few
from sesurgery.placement.sites import place_in
from sesurgery.plans import Skip
from sesurgery.recipe.rules import Rule


def named_targets(anatomy: Anatomy, rule: Rule) -> Iterator[Target | Skip]:
    """Everything that a phrase names which speaks of a part of the model; the subject is a module or a gate."""
    if rule.at.role != "attention":
        yield from too_few(anatomy, rule)
        for layer in layers_of(anatomy, rule.at):
            yield module_target(anatomy, layer, anatomy.survey.paths[layer], is_conv=rule.at.role == "conv")
        return
    for module in attention_modules(anatomy):
        yield module_target(anatomy, module, anatomy.survey.paths[module])
    for gate in written_gates(anatomy):
        holder = anatomy.survey.paths[gate.host]
        yield Target(place_in(anatomy, gate.host, gate.node), gate, holder, gate.node.meta["val"])


def module_target(anatomy: Anatomy, module: nn.Module, path: str, is_conv: bool = False) -> Target:
    """A module at one of its places, with the activation that it gives; a convolution is known by its host."""
    output = next((frame.output for frame in frames_of(anatomy.survey, module)), None)
    value = output if isinstance(output, torch.Tensor) else None
    if is_conv:
        return Target(path, module, path.rpartition(".")[0], value, module)
    return Target(path, module, path, value)
