"""The right branch, the right axis, and nothing else: one small model a family, real weights, float64.

Default: the quick families. ``pytest -m slow`` runs the others.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from families import FAMILIES, Family
from slow import marked_slow
from torch import nn

import sesurgery
from sesurgery.plans import Plan
from sesurgery.recording.nested import map_tensors, tensors_in

QUICK = (
    "cait", "convnext", "densenet", "dpn", "fasternet", "hgnet", "mambaout", "nfnet", "regnet", "repvit", "res2net",
    "resnet", "resnetv2", "rexnet", "starnet", "swin", "swinv2", "visformer", "vit", "vit (parallel blocks)",
    "mobilenet_v3 (torchvision)", "r3d (torchvision)", "resnet (torchvision)", "shufflenet (torchvision)",
    "squeezenet (torchvision)",
)  # fmt: skip
RESIDUAL = [family for family in FAMILIES if family.recipe == "standard"]


def quick(family: Family) -> bool:
    return family.name in QUICK


class Closed(nn.Module):
    """A gate that lets nothing through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


@dataclass(frozen=True)
class Call:
    """What a module was called with, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


# Its own forward makes coordinates in float32, whatever it is given.
SINGLE = ("raft (torchvision)",)


def precision(family: Family) -> torch.dtype:
    return torch.float32 if family.name in SINGLE else torch.float64


def original(family: Family) -> nn.Module:
    """The family's model in float64 where it can run so, its dropouts and stochastic depths at work while training."""
    dropping = replace(family, args={**family.args, "drop_path_rate": 0.2})
    try:
        model = dropping.create()
    except sesurgery.SurgeryError:
        model = family.create()
    model = model.to(precision(family))
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.1
    return model


@dataclass(frozen=True)
class Case:
    """A family's model, the same operated with identity init, and the plan."""

    family: Family
    model: nn.Module
    ours: nn.Module
    plan: Plan


def operated(family: Family, recipe: Any) -> Case:
    model = original(family)
    surgery = sesurgery.apply(
        copy.deepcopy(model), recipe, inplace=True, input_size=family.size, init="identity", reduction=4
    )
    return Case(family, model, surgery.model, surgery.plan)


@pytest.fixture(scope="module", params=marked_slow(FAMILIES, quick))
def case(request: pytest.FixtureRequest) -> Case:
    return operated(request.param, request.param.recipe)


def record(model: nn.Module, paths: set[str], inputs: tuple[Any, ...]) -> dict[str, Call]:
    """The first call of each module at ``paths`` in one forward."""
    calls: dict[str, Call] = {}
    handles = []
    for path in paths:

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            calls.setdefault(path, Call(_copied(args), _copied(kwargs), _copied(output)))

        handles.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return calls


def _copied(value: Any) -> Any:
    return map_tensors(torch.clone, value)


def equal(one: Any, two: Any) -> bool:
    pairs = list(zip(tensors_in(one), tensors_in(two), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def test_identity_init_changes_no_bit(case: Case) -> None:
    assert case.plan.edits
    inputs = case.family.inputs(dtype=precision(case.family))
    with torch.no_grad():
        assert equal(case.ours.eval()(*inputs), case.model.eval()(*inputs))


def test_training_goes_as_before(case: Case) -> None:
    inputs = case.family.inputs(training=True, dtype=precision(case.family))
    found: list[tuple[Any, dict[str, torch.Tensor], torch.Tensor]] = []
    for body in (copy.deepcopy(case.ours).train(), copy.deepcopy(case.model).train()):
        torch.manual_seed(3)
        with torch.no_grad():
            output = body(*inputs)
        found.append((output, dict(body.named_buffers()), torch.get_rng_state()))
    (ours_out, ours_buffers, ours_rng), (out, buffers, rng) = found
    assert equal(ours_out, out)
    assert torch.equal(ours_rng, rng), "another number of random draws"
    for name, buffer in buffers.items():
        assert torch.equal(ours_buffers[name], buffer), name


# The residual sum takes a part of the channels, or the layer before the site gives a part of them.
PARTS = ("rexnet", "ghostnet")


def test_node_sees_the_true_channel_axis(case: Case) -> None:
    """The layer with weights that made what a node takes, or ran last before it, says how many channels there are."""
    model = case.ours
    layers = ((path, module) for path, module in model.named_modules() if width(module))
    nodes = {edit.path for edit in case.plan.edits}
    last: list[tuple[int, Any]] = []
    seen: dict[str, tuple[int, torch.Size]] = {}
    handles = [
        module.register_forward_hook(lambda module, args, output: last.append((width(module), output)))
        for path, module in layers
        if not any(path.startswith(node + ".") for node in nodes)
    ]
    for node in nodes:

        def note(module: nn.Module, args: tuple[torch.Tensor, ...], node: str = node) -> None:
            made = [channels for channels, output in last if output is args[0]]
            seen.setdefault(node, (made[-1] if made else last[-1][0], args[0].shape))

        handles.append(model.get_submodule(node).register_forward_pre_hook(note))
    with torch.no_grad():
        model(*case.family.inputs(1, dtype=precision(case.family)))
    for handle in handles:
        handle.remove()
    for edit in case.plan.edits:
        channels, shape = seen[edit.path]
        assert tuple(shape) == edit.change.layer.shape, edit.path
        assert shape[edit.change.layer.axis] == edit.channels, edit.path
        if case.family in RESIDUAL and case.family.name not in PARTS:
            assert edit.channels == channels, edit.path


def width(module: nn.Module) -> int:
    """Channels that a convolution or a linear layer gives; 0 for other modules."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else 0


@dataclass(frozen=True)
class Shut:
    """A host whose gates let nothing through, run on what its call in the whole network was given.

    Attributes:
        before: what the host gave with its gates open.
        live, dead: kernels and matrices that the output depends on, and those that it no longer does.
    """

    path: str
    host: nn.Module
    inputs: list[torch.Tensor]
    output: torch.Tensor
    children: list[torch.Tensor]
    before: torch.Tensor
    live: int
    dead: int

    def gives(self, values: list[torch.Tensor]) -> bool:
        """Whether the output is one of ``values``, an activation of the host perhaps behind it."""
        plain = [torch.relu, *(module for module in self.host.modules() if _is_activation(module))]
        return any(agree(self.output, act(value.clone())) for value in values for act in [torch.clone, *plain])


def _is_activation(module: nn.Module) -> bool:
    return not list(module.children()) and not list(module.parameters()) and "act" in type(module).__module__


def agree(output: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether two activations hold the same numbers, permuted perhaps, or one holds a part of the other's channels."""
    if output.numel() == value.numel():
        pair = output.flatten().sort().values, value.flatten().sort().values
    elif output.ndim == value.ndim > 2 and output.shape[2:] == value.shape[2:]:
        channels = min(output.shape[1], value.shape[1])
        pair = output[:, :channels], value[:, :channels]
    else:
        return False
    tolerance = 1e-9 if output.dtype == torch.float64 else 1e-5
    return torch.allclose(*pair, rtol=tolerance, atol=tolerance)


def shut(ours: nn.Module, plan: Plan, inputs: tuple[Any, ...]) -> Iterator[Shut]:
    """Close every gate, and run each host alone: its inputs are still those of the open network."""
    # A node behind a layer gates a sum further out: that of the block.
    paths = {edit.block or edit.host if edit.route == "behind" else edit.host for edit in plan.edits}
    calls = record(ours, paths, inputs)
    gates = {edit.path: ours.get_submodule(edit.path) for edit in plan.edits}
    for path in gates:
        ours.set_submodule(path, Closed())
    try:
        yield from (_run(path, ours.get_submodule(path), calls[path]) for path in sorted(paths))
    finally:
        for path, gate in gates.items():
            ours.set_submodule(path, gate)


def _run(path: str, host: nn.Module, call: Call) -> Shut:
    children: list[torch.Tensor] = []
    handles = [
        child.register_forward_hook(lambda module, args, output: children.extend(map(torch.clone, tensors_in(output))))
        for child in host.modules()
        if child is not host and not isinstance(child, Closed)
    ]
    host.zero_grad()
    inputs = tensors_in((call.args, call.kwargs))
    found = tensors_in(host(*_copied(call.args), **_copied(call.kwargs)))
    for handle in handles:
        handle.remove()
    loss = sum((output * torch.randn_like(output)).sum() for output in found)
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.backward()
    kernels = [weight for weight in host.parameters() if weight.ndim >= 2 and weight.numel() > max(weight.shape)]
    live = sum(weight.grad is not None and bool(weight.grad.abs().max() > 1e-12) for weight in kernels)
    before = tensors_in(call.output)
    changed = next((n for n, pair in enumerate(zip(found, before, strict=True)) if not torch.equal(*pair)), 0)
    details = ([child.detach() for child in children], before[changed], live, len(kernels) - live)
    return Shut(path, host, inputs, found[changed].detach(), *details)


# What is left there is neither an input nor what a layer gave: a normalised query, a class token cut out and put back,
# a sum with a learnt token that comes from outside of the model's input, a branch times a number, maps of other sizes
# resized and added, a projection pooled by hand.
FUNCTIONAL = (
    "EfficientAdditiveAttention",
    "ClassAttentionBlock",
    "LayerScaleBlockClassAttn",
    "NormFreeBlock",
    "ConvPosEnc",
    "ParallelBlock",
    "HieraBlock",
)
# Only a part of the channels goes through the sum; the rest is handed on.
PARTIAL = ("DualPathBlock", "LinearBottleneck")
# Most of the host's layers lie before its sum or behind it.
AROUND = ("PatchMerging", "AttentionPoolLatent")


def test_only_the_identity_is_left_where_standard_gates_are_shut(case: Case) -> None:
    if case.family.recipe != "standard":
        assert case.family not in RESIDUAL
        return
    for found in shut(case.ours, case.plan, case.family.inputs(dtype=precision(case.family))):
        assert not torch.allclose(found.output, found.before), found.path
        whole = type(found.host).__name__ not in PARTIAL
        assert found.dead > 0 or not whole, f"{found.path}: the gates shut nothing off"
        if type(found.host).__name__ in FUNCTIONAL or found.gives(found.inputs):
            continue
        assert found.gives(found.children), f"{found.path}: neither its input nor a projection of it"
        around = type(found.host).__name__ in AROUND
        assert not whole or around or found.dead >= found.live, f"{found.path}: the heavier branch is left"


@pytest.mark.parametrize("family", marked_slow(RESIDUAL, quick))
def test_only_the_branch_is_left_where_identity_gates_are_shut(family: Family) -> None:
    case = operated(family, "identity")
    for found in shut(case.ours, case.plan, family.inputs(dtype=precision(family))):
        assert not torch.allclose(found.output, found.before), found.path
        assert not any(torch.equal(found.output, value) for value in found.inputs), f"{found.path}: its input is left"
        assert found.live >= found.dead, f"{found.path}: the lighter branch is left"
        if type(found.host).__name__ in FUNCTIONAL or found.gives(found.children):
            continue
        differences = [found.before - value for value in found.inputs if value.shape == found.before.shape]
        assert any(agree(found.output, value) for value in differences), f"{found.path}: not the branch alone"
