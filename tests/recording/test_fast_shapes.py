"""The quick results on meta are those of torch: shapes, strides and dtypes, or none at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sesurgery.recording.fast_shapes import quick_result


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


class Compared(TorchDispatchMode):
    """Asks both for every operation and notes what was quick."""

    def __init__(self) -> None:
        super().__init__()
        self.quick: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        quick = quick_result(name, args, kwargs or {})
        slow = given = func(*args, **(kwargs or {}))
        if quick is not None:
            self.quick.append(name)
            if "batch_norm" in name:  # the statistics are for a backward, and every device gives others
                quick, slow = quick[0], slow[0]
            assert described(quick) == described(slow), name
        return given


def described(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [described(item) for item in value]
    return tuple(value.shape), value.stride() if value.numel() else None, value.dtype, value.device.type


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("given", INPUTS)
def test_a_quick_result_is_torchs_own(given: str, call: str) -> None:
    x = INPUTS[given]
    if x is TOKENS and ("batch_norm" in call or call == "conv"):
        pytest.skip("not for this rank")
    with torch.no_grad(), Compared():
        CALLS[call](x)


def test_what_takes_torch_longest_is_quick() -> None:
    norm, linear = CALLS["layer_norm"], CALLS["linear"]
    with torch.no_grad(), Compared() as mode:
        CALLS["conv"](MAP), CALLS["batch_norm"](MAP), CALLS["mul gate"](MAP), norm(TOKENS), linear(TOKENS)
    assert {"convolution", "mean", "mul", "native_layer_norm", "addmm"} <= set(mode.quick)
    assert any("batch_norm" in name for name in mode.quick)
