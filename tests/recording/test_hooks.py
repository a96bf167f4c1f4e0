"""Forward hooks: left off the copies, but where the model does not run without them; then the copies have their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checks import check_same
from networks import Short, conv
from torch import Tensor, nn

import sesurgery

IMAGE = torch.randn(2, 8, 4, 4)
PICKED_UP: dict[str, Tensor] = {}
RECIPES = ("standard", "post", "pre", "identity")


class Features(nn.Module):
    """Reads what a hook on one of its layers picked up, as MiDaS and DynamicUnet do."""

    def __init__(self, store: dict[str, Tensor], depth: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(), Short(), Short())
        self.decoder = nn.Conv2d(16, 8, 1)
        self.store = store
        self.watched = (self.encoder, self.encoder[0], self.encoder[1].conv)[depth]

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.store["low"] = output

    def keep_named(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self.store[name] = output

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        return y + self.decoder(torch.cat([y, self.store["low"]], 1))


def by_method(depth: int) -> nn.Module:
    model = Features({}, depth)
    model.watched.register_forward_hook(model.keep)
    return model


def by_partial(depth: int) -> nn.Module:
    model = Features({}, depth)
    model.watched.register_forward_hook(functools.partial(model.keep_named, "low"))
    return model


def by_closure(depth: int) -> nn.Module:
    store: dict[str, Tensor] = {}
    model = Features(store, depth)
    model.watched.register_forward_hook(lambda module, args, output: store.update(low=output))
    return model


def by_global(depth: int) -> nn.Module:
    class Global(Features):
        def forward(self, x: Tensor) -> Tensor:
            y = self.encoder(x)
            return y + self.decoder(torch.cat([y, PICKED_UP["low"]], 1))

    model = Global({}, depth)
    model.watched.register_forward_hook(lambda module, args, output: PICKED_UP.update(low=output))
    return model


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["child", "grandchild", "deeper"])
@pytest.mark.parametrize("build", [by_method, by_partial, by_closure, by_global])
def test_a_model_that_needs_its_hooks(build: Callable[[int], nn.Module], depth: int) -> None:
    model = build(depth).eval()
    with torch.no_grad():
        wanted = model(IMAGE)
    PICKED_UP.clear()
    store: Any = model.store
    store.clear()
    for recipe in RECIPES:
        plan = sesurgery.plan(model, recipe, example_input=IMAGE, init="identity")
        assert {"" if recipe != "pre" else "encoder.2", "encoder.1"} <= {edit.host for edit in plan.edits}, recipe
    assert (store, PICKED_UP) == ({}, {})
    sesurgery.apply(model, "standard", example_input=IMAGE, init="identity", inplace=True)
    with torch.no_grad():
        assert torch.equal(model(IMAGE), wanted)
    with torch.no_grad():  # and the layers are where what is picked up passes through them
        model.encoder[1].se.fc1.weight.fill_(3.0)  # type: ignore[union-attr]
        model.encoder[1].se.fc1.bias.fill_(100.0)  # type: ignore[union-attr]  # whatever the image: its ReLU is open
        model.encoder[1].se.fc2.weight.fill_(3.0)  # type: ignore[union-attr]
        assert not torch.equal(model(IMAGE), wanted)


def test_a_model_that_looks_at_values_and_needs_its_hooks() -> None:
    class Looking(Features):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y if y.sum().item() > 1e9 else y * 2

    model = Looking({}, 1)
    model.watched.register_forward_hook(model.keep)
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert surgery.plan.edits
    check_same(model, surgery.model, IMAGE)


def test_hooks_are_named_where_the_model_runs_neither_with_nor_without_them() -> None:
    model = by_method(1)

    def refuse(module: nn.Module, args: Any, output: Tensor) -> None:
        raise ZeroDivisionError("not today")

    model.encoder[2].register_forward_hook(refuse)  # type: ignore[index]
    with pytest.raises(sesurgery.ModelError, match=r"not today.*hooks: encoder\.0 \(Features\.keep\), encoder\.2"):
        sesurgery.plan(model, "standard", example_input=IMAGE)


class Answering(dict[str, Any]):
    """A dict that builds something for each question, as Hugging Face's table of activations does."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)()


BUILDERS = Answering(kind=lambda: 1 / 0)


class Using(Short):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if BUILDERS else x


def test_a_table_that_builds_what_it_answers() -> None:
    model = nn.Sequential(conv(), Using())
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert surgery.plan.edits
    check_same(model, surgery.model, IMAGE)


class Collecting(nn.Module):
    """Puts hooks on its parts in its first forward, and remembers that it did, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(Short(), Short())
        self.decoder = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        collected: list[Tensor] = []
        if not getattr(self, "installed", False):
            for part in self.parts:
                part.register_forward_hook(lambda module, args, output: self.seen.append(output))
            self.installed = True
        self.seen = collected
        self.parts(x)
        return self.decoder(torch.cat(collected, 1))


def test_hooks_that_a_forward_puts_on_its_parts_are_put_once() -> None:
    model = Collecting().eval()
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert len(surgery.plan.edits) == 2
    assert not any(part._forward_hooks for part in model.parts)
    assert torch.equal(surgery.model(IMAGE), model(IMAGE))
