"""Models in wrappers: a compiled one is operated inside, what is spread over processes is refused in plain words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from networks import Residual, Short, Wrapper, conv
from torch import Tensor, nn

import sesurgery
from sesurgery.errors import ModelError

IMAGE = torch.randn(2, 8, 4, 4)


def net() -> nn.Sequential:
    return nn.Sequential(conv(), Residual(8), Residual(8))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[1], mesh=mesh)  # type: ignore[index]
    return fully_shard(model, mesh=mesh)


def inside(model: nn.Module) -> nn.Module:
    return nn.Sequential(ddp(model))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [ddp, sharded, inside])
def test_what_is_spread_over_processes_is_refused_before_and_reverted_before(wrap: Callable[..., nn.Module]) -> None:
    wrapped = wrap(net())
    for inplace in (False, True):
        with pytest.raises(ModelError, match=r"spread over processes.*operate first, on the plain model"):
            sesurgery.apply(wrapped, "standard", example_input=IMAGE, inplace=inplace)
    operated = sesurgery.apply(net(), "standard", example_input=IMAGE, init="identity").model
    wanted = operated(IMAGE)
    wrapped = wrap(operated)
    assert torch.equal(wrapped(IMAGE), wanted)
    wrapped(IMAGE).sum().backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())
    if wrap is sharded:
        assert torch.equal(sesurgery.revert(wrapped)(IMAGE), wanted)
        assert list(wrapped.state_dict()) == list(net().state_dict())
        return
    kinds = [type(module) for module in wrapped.modules()]
    with pytest.raises(ModelError, match=r"spread over processes.*revert first"):
        sesurgery.revert(wrapped)
    assert [type(module) for module in wrapped.modules()] == kinds


def compiled(model: nn.Sequential) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_in_place(model: nn.Sequential) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_block(model: nn.Sequential) -> nn.Module:
    model[1] = torch.compile(model[1], backend="eager")  # type: ignore[assignment]
    return model


class Empty(Wrapper):
    def __len__(self) -> int:
        return 0


def compiled_around(model: nn.Sequential) -> nn.Module:
    """Asked for its length, it raises a TypeError."""
    return torch.compile(Wrapper(model), backend="eager")  # type: ignore[return-value]


WRAPS = [compiled, compiled_in_place, compiled_block, nn.DataParallel, compiled_around, Empty]


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("wrap", WRAPS)
@torch.no_grad()
def test_a_compiled_or_wrapped_model_is_operated_inside(wrap: Callable[..., nn.Module], inplace: bool) -> None:
    torch._dynamo.reset()
    model = wrap(net().eval())
    wanted = model(IMAGE)
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, inplace=inplace, init="identity")
    assert len(surgery.plan.edits) == 2
    assert torch.equal(surgery.model(IMAGE), wanted)
    for parameter in surgery.new_parameters():
        parameter.fill_(2.0)
    assert not torch.equal(surgery.model(IMAGE), wanted), "the layers do not run"
    assert torch.equal(sesurgery.revert(surgery.model)(IMAGE), wanted)


class Held(Short):
    """Holds another method in the place of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.forward_other

    def forward_other(self, x: Tensor) -> Tensor:
        return x + self.conv(x) * 2


def hooked_as_accelerate_does(module: Any) -> None:
    def new_forward(module: Any, *args: Any) -> Any:
        return module._old_forward(*args)

    module._old_forward = module.forward
    module.forward = functools.update_wrapper(functools.partial(new_forward, module), module._old_forward)


def test_methods_that_a_host_holds_come_back_too() -> None:
    model = nn.Sequential(conv(), Held())
    wanted = model(IMAGE)
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert torch.equal(operated(IMAGE), wanted)
    sesurgery.revert(operated)
    assert torch.equal(operated(IMAGE), wanted)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forward_replaced_as_accelerate_does_it(when: str) -> None:
    model = net().eval()
    wanted = model(IMAGE)
    if when == "before":
        hooked_as_accelerate_does(model[1])
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity", inplace=True).model
    if when == "after":
        hooked_as_accelerate_does(model[1])
    assert torch.equal(operated(IMAGE), wanted)
    with torch.no_grad():
        operated[1].se.fc1.weight.fill_(3.0)  # type: ignore[index,union-attr]
        operated[1].se.fc2.weight.fill_(3.0)  # type: ignore[index,union-attr]
    assert not torch.equal(operated(IMAGE), wanted)
    assert torch.equal(sesurgery.revert(operated)(IMAGE), wanted)
