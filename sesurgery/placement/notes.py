"""What a user should know about a layer where it is put: who shares it, what takes it away, whether it can learn."""

from __future__ import annotations

from torch import nn

from sesurgery.anatomy.layer_kinds import is_conv, is_norm
from sesurgery.operating.edited_class import original_class
from sesurgery.plans import AppendBehind, Change, FillSocket, InsertIntoGraph, RewriteForward
from sesurgery.recording.recorder import has_own_forward, is_chain
from sesurgery.tracing.survey import Survey


def notes_on(survey: Survey, host: nn.Module, change: Change) -> tuple[str, ...]:
    """The notes on an edit of this host."""
    notes: list[str] = []
    mounts, calls = survey.mounts[host], survey.probe.calls.get(host, 0)
    if len(mounts) > 1:
        notes.append(f"mounted at {', '.join(mounts)}: one host, edited once")
    if calls > 1:
        notes.append(f"called {calls} times in one forward: one host, edited once")
    if isinstance(change, AppendBehind) and not has_own_forward(host) and not is_chain(host):
        kind = original_class(type(host)).__name__
        notes.append(f"it lives in the {kind}: what replaces that ({_replacing(host)}) takes this layer away")
    if _is_without_gradients(survey, host, change):
        notes.append("it runs where torch.no_grad() or inference_mode holds: this layer gets no gradient")
    return tuple(notes)


def _replacing(layer: nn.Module) -> str:
    """The tools that replace layers of such a kind."""
    if is_conv(layer):
        return "fusing it with its norm, LoRA, quantisation"
    if is_norm(layer):
        return "fusing it with its convolution, convert_sync_batchnorm, frozen norms"
    if isinstance(layer, nn.Linear):
        return "LoRA, quantisation"
    return "a swap of activations, fusion, quantisation"


def _is_without_gradients(survey: Survey, host: nn.Module, change: Change) -> bool:
    """Whether a layer is called where gradients are off, whenever its host is called."""
    calls = survey.frames.get(host, ())
    if calls and not any(call.grad for call in calls):
        return True
    trace = survey.trace(host)
    if trace is None or not isinstance(change, (FillSocket, RewriteForward, InsertIntoGraph)):
        return False
    return any(node.name == change.value and node.meta.get("grad") is False for node in trace.graph.nodes)
