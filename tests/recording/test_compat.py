"""The private names of torch and timm that are in use still mean what they are used for; upstream changes fail here."""

from __future__ import annotations

import logging
import pickle
from collections import OrderedDict

import pytest
import torch
from timm.models.mobilenetv3 import mobilenetv3_small_050
from torch import nn

from sesurgery.attention.squeeze_excite import MbConvSE
from sesurgery.recording import compat

FAMILIES = {
    compat.BatchNorm: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm2d),
    compat.InstanceNorm: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    compat.NormBase: (nn.BatchNorm2d, nn.InstanceNorm2d),
    compat.Dropout: (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    compat.MaxPool: (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    compat.AvgPool: (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    compat.LPPool: (nn.LPPool1d, nn.LPPool2d),
    compat.AdaptiveAvgPool: (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    compat.AdaptiveMaxPool: (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
}


@pytest.mark.parametrize("base", FAMILIES, ids=lambda base: base.__name__)
def test_a_base_class_stands_above_its_family_and_no_other(base: type[nn.Module]) -> None:
    everybody = {kind for family in FAMILIES.values() for kind in family}
    above = {kind for kind in everybody if issubclass(kind, base)}
    expected = set(FAMILIES[base])
    if base is compat.NormBase:
        expected |= {*FAMILIES[compat.BatchNorm], *FAMILIES[compat.InstanceNorm]}
    assert above == expected


def test_the_tables_of_a_module_are_plain_and_pickled() -> None:
    model = nn.BatchNorm1d(2)
    model.add_module("child", nn.Identity())
    for module in (model, pickle.loads(pickle.dumps(model))):
        assert list(module.__dict__["_modules"]) == ["child"]
        assert list(module.__dict__["_parameters"]) == ["weight", "bias"]
        assert list(module.__dict__["_buffers"]) == ["running_mean", "running_var", "num_batches_tracked"]


def test_every_table_of_hooks_is_known() -> None:
    """State-dict hooks stay with a copy: they say how it is saved, not what its forward does."""
    tables = {name for name in nn.Module().__dict__ if name.endswith(("_hooks", "_with_kwargs", "_always_called"))}
    known = {*compat.FORWARD_HOOKS, *compat.BACKWARD_HOOKS}
    assert {name for name in tables if "state_dict" not in name} == known
    assert all(isinstance(nn.Module().__dict__[name], OrderedDict | dict) for name in known)


def test_an_overload_knows_its_operation_and_a_view_its_base() -> None:
    assert compat.packet(torch.ops.aten.add.Tensor) is torch.ops.aten.add
    base = torch.zeros(2, 3)
    assert compat.viewed(base[0]) is base
    assert compat.viewed(base) is None


def test_the_border_of_a_padding_mode_is_where_it_was() -> None:
    narrow = nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode="circular")
    wide = nn.Conv2d(1, 1, 3, padding=(3, 4), padding_mode="circular")
    assert narrow(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 10)
    compat.set_border(narrow, [4, 4, 3, 3])
    assert narrow(torch.zeros(1, 1, 8, 8)).shape == wide(torch.zeros(1, 1, 8, 8)).shape


def test_a_convolution_is_told_from_one_with_a_step_of_its_own() -> None:
    class Standardised(nn.Conv2d):
        def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return super()._conv_forward(input, weight - weight.mean(), bias)

    class Renamed(nn.Conv2d):
        pass

    assert compat.same_convolution(Renamed, nn.Conv2d)
    assert not compat.same_convolution(Standardised, nn.Conv2d)
    x, layer = torch.randn(1, 1, 4, 4), Standardised(1, 1, 3)
    assert not torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias))


def test_a_dispatch_mode_sees_aten() -> None:
    seen = []

    class Watch(compat.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(compat.packet(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.zeros(1).relu()
    assert torch.ops.aten.relu in seen


def test_modules_are_walked_as_torch_walks_them() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), shared), nn.ModuleDict({"a": shared, "b": nn.Identity()}))
    model.register_module("none", None)
    assert compat.modules_in(model) == list(model.modules())


def test_trees_are_walked_in_order() -> None:
    leaves, spec = compat.pytree.tree_flatten({"b": [1, (2,)], "a": 3})
    assert leaves == compat.pytree.tree_leaves({"b": [1, (2,)], "a": 3})
    assert compat.pytree.tree_unflatten(leaves, spec) == {"b": [1, (2,)], "a": 3}
    assert compat.pytree.tree_map_only(int, str, [1, "x", (2,)]) == ["1", "x", ("2",)]


def test_timms_mbconv_se_is_the_one_its_models_are_built_with() -> None:
    layers = [part for part in mobilenetv3_small_050().modules() if type(part) is MbConvSE]
    assert layers
    assert {name.split(".")[0] for name in layers[0].state_dict()} == {"conv_reduce", "conv_expand"}


def test_torch_is_silent_about_triton_and_about_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch.utils.flop_counter")
    assert compat._not_of_triton not in logger.filters  # only while torch is imported
    for text, passes in (("triton not found; flop counting will not work", False), ("another warning", True)):
        record = logging.LogRecord(logger.name, logging.WARNING, "", 0, text, None, None)
        assert compat._not_of_triton(record) is passes
    assert torch.ops.aten.mm in compat.flop_registry
