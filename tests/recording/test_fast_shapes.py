"""What is remembered of operations on meta is what torch gives: shapes, strides and dtypes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sesurgery.recording.fast_shapes import result


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


MAP = meta(2, 12, 8, 6)
NHWC = MAP.contiguous(memory_format=torch.channels_last)
PERMUTED = meta(2, 8, 6, 12).permute(0, 3, 1, 2)
TOKENS = meta(2, 9, 12)
HALF = meta(2, 12, 8, 6, dtype=torch.float16)
VECTOR = meta(12)
INPUTS = {
    "map": MAP,
    "channels_last": NHWC,
    "permuted": PERMUTED,
    "tokens": TOKENS,
    "half": HALF,
    "columns": MAP[:, :, :, 1:4],
}
functional = torch.nn.functional
CALLS: dict[str, Any] = {
    **{name: getattr(functional, name) for name in "relu silu gelu sigmoid tanh hardswish elu mish".split()},
    "relu_": lambda x: functional.relu(x.clone(), inplace=True),
    "clone": torch.clone,
    "add": lambda x: x + x,
    "add 1": lambda x: x + 1,
    "mul 0.5": lambda x: x * 0.5,
    "sub row": lambda x: x - x[..., :1, :],
    "mul gate": lambda x: x * x.mean((-2, -1), keepdim=True),
    "gate mul": lambda x: x.mean((-2, -1), keepdim=True) * x,
    "mul vector": lambda x: x * torch.empty(x.shape[-1], dtype=x.dtype, device="meta"),
    "mul double": lambda x: x * torch.empty(x.shape, dtype=torch.float64, device="meta"),
    "add ints": lambda x: x + torch.empty(x.shape, dtype=torch.int64, device="meta"),
    "mean": lambda x: x.mean(),
    "mean dims": lambda x: x.mean((1, -1)),
    "mean kept": lambda x: x.mean((1, -1), keepdim=True),
    "mean dtype": lambda x: x.mean((1,), dtype=torch.float64),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "layer_norm of two": lambda x: torch.native_layer_norm(x, x.shape[-2:], None, None, 1e-5),
    "linear": lambda x: functional.linear(
        x, torch.empty(7, x.shape[-1], dtype=x.dtype, device="meta"), torch.empty(7, dtype=x.dtype, device="meta")
    ),
    "batch_norm": lambda x: functional.batch_norm(x, *(torch.empty(x.shape[1], device="meta"),) * 2),
    "batch_norm, training": lambda x: functional.batch_norm(
        x, *(torch.empty(x.shape[1], device="meta"),) * 2, training=True
    ),
    "conv": lambda x: functional.conv2d(x, torch.empty(4, 6, 3, 3, dtype=x.dtype, device="meta"), groups=2, stride=2),
}


class Asked:
    """An operation of torch that counts how often it is asked."""

    def __init__(self, operation: Any) -> None:
        self.operation = operation
        self._schema = operation._schema
        self.times = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.times += 1
        return self.operation(*args, **kwargs)


asked = functools.cache(Asked)


class Compared(TorchDispatchMode):
    """Has every operation's result remembered, and compares it with what torch gives."""

    def __init__(self) -> None:
        super().__init__()
        self.remembered: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation, name = asked(func), func._overloadpacket.__name__
        if name.endswith("_"):
            return result(operation, args, kwargs)
        slow = func(*args, **kwargs)
        result(operation, args, kwargs)
        times = operation.times
        again = result(operation, args, kwargs)
        if operation.times == times:
            self.remembered.append(name)
        assert described(again) == described(slow), name
        return slow


def described(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [described(item) for item in value]
    return tuple(value.shape), value.stride(), value.dtype, value.device.type


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("given", INPUTS)
def test_what_is_remembered_is_what_torch_gives(given: str, call: str) -> None:
    x = INPUTS[given]
    if x is TOKENS and ("batch_norm" in call or call == "conv"):
        pytest.skip("not for this rank")
    with torch.no_grad(), Compared():
        CALLS[call](x)
        CALLS[call](x)


def test_torch_is_asked_once_for_what_takes_longest() -> None:
    norm, linear = CALLS["layer_norm"], CALLS["linear"]
    with torch.no_grad(), Compared() as mode:
        CALLS["conv"](MAP), CALLS["batch_norm"](MAP), CALLS["mul gate"](MAP), norm(TOKENS), linear(TOKENS)
        torch.roll(TOKENS, 1, 1), torch.cat([TOKENS, TOKENS], 1), functional.softmax(TOKENS, -1)
    assert {"convolution", "mean", "mul", "native_layer_norm", "addmm"} <= set(mode.remembered)
    assert {"roll", "cat", "_softmax"} <= set(mode.remembered)
    assert any("batch_norm" in name for name in mode.remembered)


def test_numbers_of_another_type_are_other_arguments() -> None:
    ints, add = meta(3, dtype=torch.int64), torch.ops.aten.add.Tensor
    given = [result(add, (ints, number), {}).dtype for number in (1, 1.0, True, 1, 1.0)]
    assert given == [torch.int64, torch.float32, torch.int64, torch.int64, torch.float32]


def test_a_view_shares_the_memory_of_what_it_views() -> None:
    view = torch.ops.aten.view.default
    for _ in range(2):
        assert result(view, (TOKENS, [2, 108]), {}).untyped_storage()._cdata == TOKENS.untyped_storage()._cdata


def test_what_writes_gives_what_it_wrote_into_and_may_change_its_shape() -> None:
    add, squeeze = torch.ops.aten.add_.Tensor, torch.ops.aten.squeeze_.default
    for _ in range(2):
        x, y = meta(1, 3), meta(1, 3)
        assert result(add, (x, 1), {}) is x
        assert result(squeeze, (y,), {}) is y
        assert y.shape == (3,)


def test_what_fails_fails_again() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError):
            result(torch.ops.aten.add_.Tensor, (meta(3), meta(4)), {})


def test_numbers_are_computed() -> None:
    for number in (1.0, 2.0):
        assert result(torch.ops.aten.add.Tensor, (torch.ones(3), number), {}).tolist() == [number + 1] * 3
