"""A layer settled for its place: what it acts on, and the options that only the place can answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sesurgery import attention
from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.layer_kinds import is_activation_layer
from sesurgery.errors import Unfit
from sesurgery.plans import AppendBehind, AttentionLayer, BypassGate, Edit, SwapChild
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.recording.nested import tensors_in
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import Trace


def port_of(value: torch.Tensor) -> attention.Port:
    """Shape and channel axis of an activation. Raises ``Unfit`` where the axis is not known."""
    axis = channel_axis(value)
    if axis is None or axis == 0:
        raise Unfit(f"which axis of {tuple(value.shape)} holds the channels cannot be derived")
    return attention.Port(tuple(value.shape), axis)


def layer_of(module: str, port: attention.Port, options: Mapping[str, Any]) -> AttentionLayer:
    """A layer of the registry for an activation. Raises ``Unfit`` where it has no meaning there."""
    reason = attention.refusal(module, port, options)
    if reason:
        raise Unfit(reason)
    return AttentionLayer(attention.canonical(module), options, port.shape, port.axis)


def size_notes(layer: AttentionLayer) -> tuple[str, ...]:
    """What a user should know of a layer that is bound to the size of its map."""
    bound = attention.entry(layer.module).bound
    size = " x ".join(map(str, attention.Port(layer.shape, layer.axis).spatial))
    return (bound.format(size=size),) if bound else ()


def dtype_at(survey: Survey, edit: Edit) -> torch.dtype | None:
    """The dtype in which this model has the activation that an edit's layer acts on; None where it is not known.

    It is not known either where an autocast of the model's own made the activation narrower than all its weights, for
    then layers cast themselves. A cast that an author wrote out does not reach into layers.
    """
    change, host = edit.change, survey.module(edit.host)
    if isinstance(change, (AppendBehind, SwapChild)):
        layer = host if isinstance(change, AppendBehind) else survey.module(change.swaps[0].path)
        frame, caller = survey.frame(layer), survey.callers.get(layer)
        node, value = None if caller is None else caller[2], None if frame is None else frame.output
    else:
        name = change.product if isinstance(change, BypassGate) else change.value
        traced = survey.trace(host)
        nodes = traced.graph.nodes if isinstance(traced, Trace) else ()
        node = next((node for node in nodes if node.name == name), None)
        value = None if node is None else node.meta["val"]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    weights = (weight for weight in survey.twin.parameters() if weight.is_floating_point())
    cast = node is not None and node.meta.get("autocast")
    return None if cast and all(weight.itemsize > value.itemsize for weight in weights) else value.dtype


def resolve(
    anatomy: Anatomy, module: str, options: Mapping[str, Any], host: nn.Module, port: attention.Port
) -> dict[str, Any]:
    """The options of a node with ``reduce_from`` and ``act: inherit`` answered by the block it is put into."""
    settled = dict(options)
    source = settled.pop("reduce_from", "site")
    block = anatomy.block_of(anatomy.survey.paths[host])
    holder = block if block is not None else host
    if source == "block input" and settled.get("rd_channels") is None:
        channels = _input_channels(anatomy.survey, holder)
        if channels is None:
            raise Unfit("the channels of the block's input cannot be derived")
        width = attention.reduced_channels(module, channels, options)
        if width is not None:
            settled["rd_channels"] = width
    if settled.get("act") == "inherit":
        settled.update(_activation_of(holder))
    return settled


def _input_channels(survey: Survey, block: nn.Module) -> int | None:
    frame = survey.frame(block)
    for tensor in [] if frame is None else tensors_in((frame.args, frame.kwargs)):
        axis = channel_axis(tensor)
        if axis is not None:
            return tensor.shape[axis]
    return None


def _activation_of(block: nn.Module) -> dict[str, Any]:
    """Name (and slope) of the first activation of a block, as timm's registry knows it."""
    for module in block.modules():
        if is_activation_layer(module):
            name = attention.activation_name(module)
            if name is not None:
                slope = getattr(module, "negative_slope", None)
                return {"act": name, **({"act_slope": slope} if name == "leaky_relu" and slope != 0.01 else {})}
    raise Unfit("the block has no activation to inherit; name one: act: relu")
