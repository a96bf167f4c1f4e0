"""Hosts in special positions: shared, hooked, with branches and with plain attributes that their forward reads."""

from __future__ import annotations

import networks
import pytest
import torch
from checks import check_same
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sesurgery

# Hosts used more than once.


class Twice(nn.Module):
    """One block mounted under two names and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = networks.Residual(8)
        self.second = self.first
        self.third = networks.Residual(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.third(self.second(self.first(x))).mean((2, 3))


# What a forward reads from self.


class Moody(nn.Module):
    """Takes another way while training, and draws a dropout there."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop_rate = 0.3
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        if self.training:
            y = F.dropout(y, self.drop_rate)
            y = y + 0.01 * torch.rand_like(y)
        return x + self.scale * y


class MoodyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Moody(), Moody())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


def moody(init: str = "identity", name: str = "standard") -> tuple[nn.Module, nn.Module]:
    original = networks.lively(MoodyNet())
    return original, sesurgery.apply(original, name, example_input=torch.randn(2, 3, 8, 8), init=init).model


@pytest.mark.parametrize("name", ["standard", "pre", "post", "identity"])
def test_both_ways_of_a_training_branch_are_kept(name: str) -> None:
    original, operated = moody(name=name)
    image = torch.randn(4, 3, 8, 8)
    for training in (True, False, True):
        outputs = []
        for model in (original, operated):
            torch.manual_seed(11)
            outputs.append(model.train(training)(image))
        assert torch.equal(*outputs)
    state = operated.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in original.state_dict().items())
    assert int(state["blocks.0.bn.num_batches_tracked"]) > 0


@pytest.mark.parametrize("training", [True, False])
def test_plain_attributes_stay_alive(training: bool) -> None:
    original, operated = moody()
    image = torch.randn(4, 3, 8, 8)
    torch.manual_seed(11)
    before = operated.train(training)(image)
    outputs = []
    for model in (original, operated):
        for block in model.blocks:
            block.drop_rate, block.scale = 0.7, 1.5
        torch.manual_seed(11)
        outputs.append(model.train(training)(image))
    assert torch.equal(*outputs)
    assert not torch.equal(before, outputs[1])


class Deep(nn.Module):
    """How often its convolution runs is a plain attribute."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.repeats = 2

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(self.repeats):
            y = torch.relu(self.conv(y))
        return x + y


def test_an_attribute_that_shapes_the_forward_can_be_changed_later() -> None:
    image = torch.randn(1, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Deep(), Deep())
    operated = sesurgery.apply(model, "standard", example_input=image, init="identity").model
    for repeats in (2, 3, 1):
        model[1].repeats = operated[1].repeats = repeats
        check_same(model, operated, image)
        assert calls_of(operated[1].se, operated, image) == 1
    sesurgery.revert(operated)
    check_same(model, operated, image)


def calls_of(layer: nn.Module, model: nn.Module, image: Tensor) -> int:
    """How often a layer is called in one forward."""
    calls: list[int] = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    model(image)
    handle.remove()
    return len(calls)


# Hosts with several ways in.


class Tapped(nn.Module):
    """A residual block with a second forward that also gives what is inside, as timm's Xception has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stack = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def _sum(self, y: Tensor, x: Tensor) -> Tensor:
        return y + x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self._sum(self.stack(x), x)

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        inner = self.stack[1](self.stack[0](x))
        return self._sum(self.stack[2](inner), x), inner


class Stepping(Tapped):
    """Its second forward shares the sum with the first, and goes through the branch in a loop."""

    def _sum(self, y: Tensor, x: Tensor) -> Tensor:
        y = y + x
        return y

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = inner = self.stem(x)
        for index, layer in enumerate(self.stack):
            if index < 2:
                inner = layer(inner)
            else:
                x = self._sum(layer(inner), x)
        return x, inner


@pytest.mark.parametrize("kind", [Tapped, Stepping])
@pytest.mark.parametrize("recipe", ["standard", "post", "identity"])
def test_a_layer_is_seen_by_every_forward(recipe: str, kind: type[Tapped]) -> None:
    model = networks.lively(kind())
    surgery = sesurgery.apply(model, recipe, example_input=torch.randn(1, 3, 8, 8))
    assert [edit.path for edit in surgery.plan.edits] == ["se"]
    assert surgery.notes == ()
    x = torch.randn(2, 3, 8, 8)
    operated = surgery.model.eval()
    assert calls_of(operated.se, operated, x) == 1
    assert not torch.equal(operated(x), model(x))
    assert torch.equal(operated(x), operated.forward_with_tap(x)[0])
    operated.forward = operated.forward_with_tap  # type: ignore[method-assign]
    assert calls_of(operated.se, operated, x) == 1


def test_a_layer_that_another_forward_does_not_see_is_told_of() -> None:
    """It calls the parts of the Sequential one by one, so the branch does not begin in the same words there."""
    model = networks.lively(Tapped())
    surgery = sesurgery.apply(model, "pre", example_input=torch.randn(1, 3, 8, 8))
    assert surgery.notes == ("se: where Tapped.forward_with_tap is called in place of forward, this layer is skipped",)
    operated, x = surgery.model.eval(), torch.randn(2, 3, 8, 8)
    operated.forward = operated.forward_with_tap  # type: ignore[method-assign]
    assert calls_of(operated.se, operated, x) == 0


def test_a_word_that_a_forward_goes_by_can_be_changed_later() -> None:
    class Worded(networks.Residual):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.mode = "plus"

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y + 1 if self.mode == "plus" else y - 1

    image, model = torch.randn(2, 8, 8, 8), networks.lively(Worded(8))
    operated = sesurgery.apply(model, "standard", example_input=image, init="identity").model
    for mode in ("plus", "minus"):
        model.mode = operated.mode = mode
        check_same(model, operated, image)


# Tensors that a forward makes from sizes: what it makes is of the size of the input it has now.

MADE = {
    "zeros(n, c, h, w)": lambda x, n, c, h, w: torch.zeros(n, c, h, w),
    "zeros((n, c, h, w))": lambda x, n, c, h, w: torch.zeros((n, c, h, w)),
    "zeros(size=)": lambda x, n, c, h, w: torch.zeros(size=(n, c, h, w)),
    "ones(n, 1, 1, 1)": lambda x, n, c, h, w: torch.ones(n, 1, 1, 1, dtype=x.dtype, device=x.device),
    "full((n, 1, h, w))": lambda x, n, c, h, w: torch.full((n, 1, h, w), 0.5),
    "eye(w)": lambda x, n, c, h, w: torch.eye(w)[:h],
    "arange(w)": lambda x, n, c, h, w: torch.arange(w, device=x.device).to(x.dtype),
    "linspace(w)": lambda x, n, c, h, w: torch.linspace(0, 1, w),
    "new_ones(n, c, h, w)": lambda x, n, c, h, w: x.new_ones(n, c, h, w),
    "meshgrid": lambda x, n, c, h, w: torch.meshgrid(torch.arange(h) * 1.0, torch.arange(w) * 1.0, indexing="ij")[0],
}


@pytest.mark.parametrize("made", MADE)
def test_what_is_made_from_sizes_follows_the_input(made: str) -> None:
    class Making(networks.Residual):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return super().forward(x) + MADE[made](x, n, c, h, w)

    model = networks.lively(Making(8)).eval()
    ours = sesurgery.apply(model, "standard", example_input=torch.randn(1, 8, 8, 8), init="identity").model
    x = torch.randn(3, 8, 10, 12)
    assert torch.equal(ours(x), model(x))
    assert not hasattr(torch.zeros, "__wrapped__")


# Arguments that a caller may leave out.


class Masked(nn.Module):
    """Reads an attribute of an optional argument, but only on the way that is not taken (timm's fused attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = True
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        if not self.fused and mask is not None:
            y = y * mask.to(y.dtype) if mask.dtype == torch.bool else y + mask
        return x + y


def test_an_argument_that_was_left_out_can_be_given_later() -> None:
    model = networks.lively(Masked())
    surgery = sesurgery.apply(model, "standard", example_input=torch.randn(1, 8, 8, 8), init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["se"]
    x = torch.randn(1, 8, 8, 8)
    for fused in (True, False):
        model.fused = surgery.model.fused = fused
        for mask in ((), (torch.ones(1),), (torch.rand(8, 8) > 0.5,)):
            check_same(model, surgery.model, x, *mask)


class Checkpointing(nn.Module):
    """As torchvision's DenseNet does, and many a block of mmcv and of people's own."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.conv, self.always = nn.Conv2d(8, 8, 3, padding=1), always

    def forward(self, x: Tensor) -> Tensor:
        if self.always and self.training:
            return x + checkpoint(self.conv, x, use_reentrant=False)
        return x + self.conv(x)


class AskingForGradients(Checkpointing):
    def forward(self, x: Tensor) -> Tensor:
        if self.always and x.requires_grad:
            return x + checkpoint(self.conv, x, use_reentrant=False)
        return x + self.conv(x)


@pytest.mark.parametrize("kind", [Checkpointing, AskingForGradients])
@pytest.mark.parametrize("always", [True, False])
def test_a_host_that_checkpoints_while_training_does_so_still(kind: type[Checkpointing], always: bool) -> None:
    image = torch.randn(1, 8, 4, 4)
    model = kind(always)
    surgery = sesurgery.apply(model, "standard", example_input=(image,), init="identity")
    for now in (always, not always):
        model.always = surgery.model.always = now  # type: ignore[assignment]
        check_same(model, surgery.model, image)
        check_same(model, surgery.model, image.clone().requires_grad_())
    inner: list[int] = []
    surgery.model.always = True  # type: ignore[assignment]
    surgery.model.train().conv.register_forward_pre_hook(lambda *_: inner.append(1))  # type: ignore[union-attr]
    surgery.model(image.requires_grad_()).sum().backward()
    assert len(inner) == 2, "what is checkpointed runs once more in the backward pass"


class Noisy(nn.Module):
    """Asks for ``training`` only where the noise is on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.noise = nn.Conv2d(8, 8, 3, padding=1), 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.noise > 0 and self.training:
            y = y + self.noise * torch.ones_like(y)
        return x + y


def test_a_flag_that_matters_in_training_only_can_be_set_later() -> None:
    image = torch.randn(1, 8, 4, 4)
    model = Noisy().train()
    ours = sesurgery.apply(model, "standard", example_input=(image,), init="identity").model
    check_same(model, ours, image)
    model.noise = ours.noise = 0.5
    check_same(model, ours, image)
    assert not torch.equal(ours.train()(image), ours.eval()(image))


def test_a_part_of_forward_is_no_way_in_of_its_own() -> None:
    class Split(networks.Residual):
        def _forward_impl(self, x: Tensor) -> Tensor:
            return super().forward(x)

        def forward(self, x: Tensor) -> Tensor:
            return self._forward_impl(x)

    surgery = sesurgery.apply(networks.lively(Split(8)), "standard", example_input=torch.randn(1, 8, 8, 8))
    assert [edit.route for edit in surgery.plan.edits] == ["source"]
    assert surgery.notes == ()


# Which argument of a call the layer takes.


class WithNothing(nn.Module):
    """Attention as it often is: the activation, and weights that nobody asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.conv(x), None


class Unpacked(nn.Module):
    """Its branch goes to a function of torch that passes on more arguments than were written."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.rate = WithNothing(), 0.1

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x, _ = self.attend(x)
        x = nn.functional.dropout(x, p=self.rate, training=self.training)
        return residual + x


def test_the_argument_of_a_function_with_defaults_is_wrapped() -> None:
    model = networks.OneBlock(Unpacked)
    surgery = sesurgery.apply(model, "standard", example_input=torch.randn(1, 3, 8, 8), init="identity")
    assert [edit.path for edit in surgery.plan.edits] == ["block.se"]
    check_same(model, surgery.model, torch.randn(2, 3, 8, 8))


class WithStatics(nn.Module):
    """Its sum stands in a method that has no self, so the layer stands where that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    @staticmethod
    def added(x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y)

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x, self.conv(x))


@pytest.mark.parametrize(
    ("recipe", "text"),
    [("standard", "x, self.se(self.conv(x))"), ("identity", "self.se(x), self.conv(x)"), ("post", "self.se(self.ad")],
)
def test_what_a_static_method_does_is_edited_where_it_is_called(recipe: str, text: str) -> None:
    model = networks.OneBlock(WithStatics)
    surgery = sesurgery.apply(model, recipe, example_input=torch.randn(1, 3, 8, 8), init="identity")
    assert text in surgery.plan.diffs[0].after
    check_same(model, surgery.model, torch.randn(2, 3, 8, 8))


class NumberFirst(nn.Module):
    """The branch stands behind the number that it is multiplied by, and goes on without the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.scale = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), 0.5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return x + self.scale * y, self.second(y)


def test_a_number_before_the_branch_is_not_the_branch() -> None:
    model = networks.OneBlock(NumberFirst)
    surgery = sesurgery.apply(model, "standard", example_input=torch.randn(1, 3, 8, 8), init="identity")
    assert "x + self.scale * self.se(y)" in surgery.plan.diffs[0].after
    check_same(model, surgery.model, torch.randn(2, 3, 8, 8))


class InATuple(nn.Module):
    """A block that returns one activation in a tuple, with nothing beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x + self.conv(x)
        return x, None


class OfTuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([InATuple(), InATuple()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)[0]
        return x


@pytest.mark.parametrize(("recipe", "edits"), [("backbone-end", 1), ("post", 2)])
def test_a_block_that_returns_its_activation_in_a_tuple_has_an_end(recipe: str, edits: int) -> None:
    model = OfTuples()
    surgery = sesurgery.apply(model, recipe, example_input=torch.randn(1, 3, 8, 8), init="identity")
    assert len(surgery.plan.edits) == edits
    check_same(model, surgery.model, torch.randn(2, 3, 8, 8))


def test_each_sum_of_a_traced_network_has_its_layer() -> None:
    model = torch.fx.symbolic_trace(networks.lively(nn.Sequential(networks.Residual(8), networks.Residual(8))))
    image = torch.randn(2, 8, 8, 8)
    surgery = sesurgery.apply(model, "standard", example_input=image, init="identity")
    assert [(edit.route, edit.host) for edit in surgery.plan.edits] == [("graph", "")] * 2
    assert torch.equal(surgery.model(image), model(image))
    for edit in surgery.plan.edits:
        assert calls_of(surgery.model.get_submodule(edit.path), surgery.model, image) == 1


class Patched(networks.Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(x)


def _patch(self: Patched, x: Tensor) -> Tensor:
    y = torch.relu(self.conv1(x))
    return y + x


def test_a_class_that_was_changed_between_two_plans_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = networks.OneBlock(Patched), torch.randn(2, 3, 8, 8)
    assert "self.se(self.conv1(x))" in sesurgery.plan(model, "standard", example_input=image).diffs[0].after
    monkeypatch.setattr(Patched, "forward", _patch)
    surgery = sesurgery.apply(model, "standard", example_input=image, init="identity")
    assert "self.se(torch.relu(self.conv1(x)))" in surgery.plan.diffs[0].after
    check_same(model, surgery.model, image)
