"""What every operated model has to pass, and what checks are written with."""

from __future__ import annotations

import copy
import io
import pickle
import random
from typing import Any

import pytest
import torch
from networks import X
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import NothingMatchedError
from sesurgery.recording.nested import tensors_in


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The output in eval mode."""
    with torch.no_grad():
        return model.eval()(x)


def rule(**parts: object) -> dict[str, object]:
    """A recipe of one rule."""
    return {"rules": [parts]}


def recipe(*rules: dict[str, Any]) -> dict[str, Any]:
    """A recipe of several rules."""
    return {"name": "test", "rules": list(rules)}


def se(at: str, **more: Any) -> dict[str, Any]:
    """A rule that inserts a narrow SE."""
    return {"insert": {"module": "se", "rd_channels": 4}, "at": at, **more}


def check_operated(original: nn.Module, operated: nn.Module, x: Tensor) -> None:
    """Forward and backward in both modes, copies that compute the same, and a revert that restores everything."""
    before = run(original, x)
    after = run(operated, x)
    assert after.shape == before.shape
    for training in (True, False):
        # Batch norms want more than one value for each channel while training.
        operated.train(training)(torch.cat((x, x + 1))).square().mean().backward()
    assert all(parameter.grad is not None for parameter in operated.parameters() if parameter.requires_grad)
    after = run(operated, x)
    buffer = io.BytesIO()
    torch.save(operated, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(operated), pickle.loads(pickle.dumps(operated)), torch.load(buffer, weights_only=False)]
    assert all(torch.equal(run(other, x), after) for other in copies)
    for other in copies:
        check_reverted(original, other)


def check_same(original: nn.Module, operated: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Bit for bit the same under identity: outputs, gradients of the old parameters and buffers, in both modes.

    Both models are run and keep what a run leaves in them, so what they count and cache can be compared afterwards.
    """
    for training in (False, True):
        runs = [_run_once(model, training, args, kwargs) for model in (original, operated)]
        (kind, leaves, grads), (other_kind, other_leaves, other_grads) = runs
        assert kind is other_kind
        assert len(leaves) == len(other_leaves)
        for one, two in zip(leaves, other_leaves, strict=True):
            assert torch.equal(one, two)
            assert (one.dtype, one.requires_grad) == (two.dtype, two.requires_grad)
        for name, grad in grads.items():
            other = other_grads[name]
            assert (grad is None) == (other is None), name
            assert grad is None or torch.allclose(grad, other, rtol=1e-4, atol=1e-5), name
    buffers = dict(operated.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in original.named_buffers())


def _run_once(model: nn.Module, training: bool, args: Any, kwargs: Any) -> tuple[type, list[Tensor], dict[str, Any]]:
    torch.manual_seed(11)
    random.seed(11)
    model.train(training).zero_grad()
    args, kwargs = copy.deepcopy((args, kwargs))
    output = model(*args, **kwargs)
    leaves = list(tensors_in(output))
    if any(leaf.requires_grad for leaf in leaves):
        sum(leaf.float().square().mean() for leaf in leaves if leaf.requires_grad).backward()  # type: ignore[union-attr]
    return type(output), leaves, {name: each.grad for name, each in model.named_parameters()}


def check_reverted(original: nn.Module, operated: nn.Module) -> None:
    """``revert`` gives back classes, keys in their order, and every weight that no training changed."""
    reverted = sesurgery.revert(operated)
    assert [type(module) for module in reverted.modules()] == [type(module) for module in original.modules()]
    assert list(reverted.state_dict()) == list(original.state_dict())
    assert [name for name, _ in reverted.named_modules()] == [name for name, _ in original.named_modules()]


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    """Whether two models have the same keys, in order, and equal tensors."""
    first, second = one.state_dict(), two.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def replaced(net: nn.Module, at: str, **change: Any) -> sesurgery.Surgery:
    return sesurgery.apply(net, rule(replace=change, at=at, where={"blocks": "all"}), example_input=X)


def reasons(net: nn.Module, at: str, **change: Any) -> str:
    with pytest.raises(NothingMatchedError) as caught:
        replaced(net, at, **change)
    return str(caught.value)


def everything(model: nn.Module) -> list[Any]:
    """All that an operation could change, as it is now."""
    return [
        (
            path,
            module,
            type(module),
            list(module.__dict__),
            {name: value for name, value in module.__dict__.items() if not name.startswith("_")},
            {name: id(child) for name, child in module._modules.items()},
            {name: (id(tensor), tensor._version) for name, tensor in module._parameters.items() if tensor is not None},
            {name: (id(tensor), tensor._version) for name, tensor in module._buffers.items() if tensor is not None},
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            dict(module._backward_hooks),
        )
        for path, module in model.named_modules()
    ]
