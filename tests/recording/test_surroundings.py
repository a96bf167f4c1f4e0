"""Planning leaves no trace: random states, lists, defaults, class registries, hooks, and nothing that stays alive."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections import OrderedDict, deque
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from checks import check_same
from networks import conv
from torch import Tensor, nn

import sesurgery

IMAGE = torch.randn(2, 8, 4, 4)
SEEN: list[Any] = []
LATEST: deque[Any] = deque([0], maxlen=3)
BY_NAME: dict[str, Any] = {"before": 1}


class Registered(nn.Module):
    """Its subclasses are kept in a list."""

    kinds: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Registered.kinds.append(cls.__name__)


class Meta(type):
    made: ClassVar[list[str]] = []

    def __init__(cls, *args: Any) -> None:
        super().__init__(*args)
        Meta.made.append(cls.__name__)


class Messy(Registered, metaclass=Meta):
    """Leaves something everywhere."""

    counts: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, seen: list[Any] = [], *, more: dict[str, int] = {}) -> Tensor:  # noqa: B006
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        SEEN.append(noise)
        LATEST.append(noise)
        BY_NAME[str(len(SEEN))] = noise
        seen.append(noise)
        more["calls"] = more.get("calls", 0) + 1
        self.counts["calls"] = self.counts.get("calls", 0) + 1
        return x + self.conv(x) * (noise if self.training else 1.0)


def surroundings() -> Any:
    function = Messy.forward
    return copy.deepcopy(
        (
            SEEN,
            list(LATEST),
            LATEST.maxlen,
            BY_NAME,
            function.__defaults__,
            function.__kwdefaults__,
            Messy.counts,
            Registered.kinds,
            Meta.made,
            random.getstate(),
            [str(each) for each in np.random.get_state()],
            torch.get_rng_state().tolist(),
        )
    )


TWO_RULES = {"rules": [{"insert": {"module": "se"}, "at": at} for at in ("before residual add", "after spatial conv")]}


@pytest.mark.parametrize(
    "recipe",
    ["standard", "pre", "post", "identity", "se-3x3", pytest.param(TWO_RULES, id="two rules")],
)
def test_planning_changes_nothing_around_the_model(recipe: Any) -> None:
    model = nn.Sequential(conv(), Messy(), Messy())
    before = surroundings()
    plan = sesurgery.plan(model, recipe, example_input=IMAGE)
    assert plan.edits
    assert surroundings() == before
    sesurgery.inspect(model, example_input=IMAGE)
    assert surroundings() == before


def test_applying_draws_for_the_new_layers_only() -> None:
    model = nn.Sequential(conv(), Messy(), Messy())
    before = surroundings()
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert surroundings()[:-1] == before[:-1]
    assert isinstance(operated[1], Messy)
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    wanted = model.train()(IMAGE)
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    assert torch.equal(operated.train()(IMAGE), wanted)
    for box in (SEEN, LATEST, BY_NAME, Messy.counts):
        box.clear()


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def test_hooks_of_the_model_do_not_run_while_planning_and_stay() -> None:
    model = nn.Sequential(conv(), Hooked())
    seen: list[str] = []
    model[1].register_forward_hook(lambda *_: seen.append("host"))
    model[1].conv.register_forward_pre_hook(lambda *_: seen.append("child"))  # type: ignore[union-attr]
    operated = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity").model
    assert seen == []
    check_same(model, operated, IMAGE)
    assert seen == ["child", "host"] * 4


class Making(OrderedDict[str, Any]):
    """Makes what is read, and takes nothing more once it is locked, as a library's table of activations does."""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(key)()

    def __setitem__(self, key: str, value: Any) -> None:
        if len(self) > 1:
            raise TypeError("locked")
        super().__setitem__(key, value)


class OnlyReading(list[str]):
    def __iter__(self) -> Any:
        raise TypeError("a list that is not to be read")


KINDS = Making(relu=nn.ReLU, conv=conv)
NAMES = OnlyReading(["relu"])


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        KINDS.pop("conv", None)
        NAMES.append("conv")
        return x + KINDS["relu"](self.conv(x))


def test_containers_with_methods_of_their_own_are_put_back() -> None:
    model = nn.Sequential(conv(), ByName())
    assert sesurgery.plan(model, "standard", example_input=IMAGE).edits
    assert list(OrderedDict.items(KINDS)) == [("relu", nn.ReLU), ("conv", conv)]
    assert list.__len__(NAMES) == 1


class Writing(nn.Module):
    """Writes into the list that it is given, and into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps[0] = maps[0] + self.conv(maps[0])
        maps.append(maps[0].relu())
        return maps


class GivingAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.writing = conv(), Writing()

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        self.writing(maps)
        return maps[0] + maps[1]


def test_a_list_that_a_child_writes_into() -> None:
    model = GivingAList()
    surgery = sesurgery.apply(model, "standard", example_input=IMAGE, init="identity")
    assert "writing" in [edit.host for edit in surgery.plan.edits]
    check_same(model, surgery.model, IMAGE)


def test_an_example_input_is_not_written_into() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            x += self.conv(x)
            return x

    image = IMAGE.clone()
    sesurgery.apply(nn.Sequential(InPlace(), InPlace()), "standard", example_input=image)
    assert torch.equal(image, IMAGE)


def test_the_classes_of_operated_hosts_go_with_their_models() -> None:
    model = nn.Sequential(conv(), Hooked())
    operated = sesurgery.apply(model, "standard", example_input=IMAGE).model
    kind = weakref.ref(type(operated[1]))
    assert kind() is not Hooked
    sesurgery.plan(operated, "post", example_input=IMAGE)
    del operated
    gc.collect()
    assert kind() is None
    assert Hooked.__subclasses__() == []


def test_planning_makes_no_class_that_stays() -> None:
    sesurgery.plan(nn.Sequential(conv(), Hooked()), "standard", example_input=IMAGE)
    gc.collect()
    assert Hooked.__subclasses__() == []


@pytest.mark.parametrize("keeps", [nn.ReLU, nn.Sigmoid, lambda: nn.Softmax(1), lambda: nn.BatchNorm2d(8)])
def test_no_copy_of_the_model_stays(keeps: Any) -> None:
    """Autograd keeps what these operations give: a graph that held it would hold itself, out of gc's sight."""

    def parameters() -> int:
        gc.collect()
        return sum(type(thing) is nn.Parameter for thing in gc.get_objects())

    model = nn.Sequential(conv(), Hooked(), keeps())
    before = parameters()
    sesurgery.plan(model, "standard", example_input=IMAGE)
    sesurgery.apply(model, "standard", example_input=IMAGE)
    assert parameters() == before
