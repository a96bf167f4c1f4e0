"""What people do with a model later, they can do with an operated one: torch.func, double backward, torch.export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Wrapper, conv, lively
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import sesurgery

IMAGE = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Smooth, so that it has second derivatives, and with an empty place for attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.se = conv(), nn.BatchNorm2d(8), conv(), None

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.silu(self.norm(self.a(x))))
        if self.se is not None:
            y = self.se(y)
        return F.silu(x + y)


class Plain(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.b(F.silu(self.norm(self.a(x)))))


def net(block: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), block(), nn.AvgPool2d(2), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    )


# By each route: into an empty place, into the author's text, behind a layer of a Sequential.
AFTER_POOLING = {"rules": [{"insert": {"module": "se"}, "at": "after module", "where": {"type": "AvgPool2d"}}]}
ROUTES: dict[str, tuple[type[nn.Module], Any]] = {
    "socket": (Block, "standard"),
    "source": (Plain, "standard"),
    "behind": (Plain, AFTER_POOLING),
}


def operated_by(route: str) -> tuple[nn.Module, nn.Module]:
    block, recipe = ROUTES[route]
    plain = net(block)
    surgery = sesurgery.apply(plain, recipe, example_input=IMAGE, init="identity")
    assert {edit.route for edit in surgery.plan.edits} == {route}
    return plain, surgery.model


@pytest.fixture(params=ROUTES)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network, and the same with attention that starts as the identity."""
    return operated_by(request.param)


def test_functional_call_takes_other_weights(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, operated = pair
    other = {name: value * 1.1 for name, value in operated.named_parameters()}
    old = {name: value for name, value in other.items() if name in dict(plain.named_parameters())}
    assert len(old) < len(other)
    assert torch.equal(functional_call(operated, other, IMAGE), functional_call(plain, old, IMAGE))
    gate = next(name for name in other if name not in old and name.endswith("fc2.bias"))
    moved = other | {gate: other[gate] + 1}
    assert not torch.equal(functional_call(operated, moved, IMAGE), functional_call(operated, other, IMAGE))


def test_vmap_over_samples_and_over_models(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, operated = pair
    each = vmap(lambda image: operated(image[None])[0])(IMAGE)
    assert torch.allclose(each, plain(IMAGE), atol=1e-6)
    params, buffers = stack_module_state([operated, operated])
    both = vmap(lambda *state: functional_call(operated, state, (IMAGE,)))(params, buffers)
    assert torch.allclose(both[1], plain(IMAGE), atol=1e-6)


def test_gradients_of_each_sample(pair: tuple[nn.Module, nn.Module]) -> None:
    def of(model: nn.Module) -> dict[str, Tensor]:
        weights = {name: value.detach() for name, value in model.named_parameters()}
        loss = grad(lambda weights, image: functional_call(model, weights, image[None]).square().sum())
        return vmap(loss, in_dims=(None, 0))(weights, IMAGE)

    plain, operated = map(of, pair)
    assert all(torch.allclose(operated[name], value, atol=1e-4, rtol=1e-4) for name, value in plain.items())


def test_double_backward(pair: tuple[nn.Module, nn.Module]) -> None:
    def penalty(model: nn.Module) -> list[Tensor]:
        x = IMAGE.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        learnt = [weight for name, weight in model.named_parameters() if name in known]
        return list(torch.autograd.grad(slope.square().sum(), learnt))

    known = dict(pair[0].named_parameters())
    for one, two in zip(*map(penalty, pair), strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)


def test_jacobians(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, operated = (jacrev(model)(IMAGE[:1]) for model in pair)
    assert torch.allclose(plain, operated, atol=1e-6)


def test_export_with_any_batch_height_and_width(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, operated = pair
    dims = {0: torch.export.Dim("n", min=1, max=8), 2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)}
    program = torch.export.export(operated, (IMAGE,), dynamic_shapes=(dims,)).module()
    for shape in ((1, 3, 16, 16), (5, 3, 24, 12)):
        other = torch.randn(shape)
        assert torch.allclose(program(other), plain(other), atol=1e-6)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize("wrap", [Wrapper, nn.DataParallel, torch.optim.swa_utils.AveragedModel, nn.Sequential])
def test_verify_takes_wrapped_models(wrap: type[nn.Module]) -> None:
    plain, operated = (wrap(model).eval() for model in operated_by("source"))
    assert sesurgery.verify(plain, operated, example_input=IMAGE)
    with torch.no_grad():
        next(operated.parameters()).add_(1)
    assert not sesurgery.verify(plain, operated, example_input=IMAGE)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, compiled])
def test_verify_takes_a_model_beside_its_wrapped_twin(wrap: Callable[[nn.Module], nn.Module]) -> None:
    plain, operated = operated_by("source")
    for one, two in ((plain, wrap(operated)), (wrap(plain), operated)):
        assert sesurgery.verify(one.eval(), two.eval(), example_input=IMAGE)
    with torch.no_grad():
        next(operated.parameters()).add_(1)
    assert not sesurgery.verify(plain, wrap(operated).eval(), example_input=IMAGE)
