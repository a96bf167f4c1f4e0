"""What a record says of an example input, and rebuilds from it."""

from __future__ import annotations

import json

import pytest
import torch

from sesurgery.models import input_spec as examples


def test_examples_are_described_and_rebuilt() -> None:
    args = (torch.zeros(2, 3), {"mask": torch.zeros(1, dtype=torch.int64), "n": 2}, [None, True, 1.5, "x"])
    data = json.loads(json.dumps(examples.describe(args)))
    assert examples.describe(examples.rebuild(data)) == data
    assert examples.rebuild(data)[0].is_meta
    assert examples.describe((object(),)) is None
    for bad in ({"tensor": [1 << 50], "dtype": "float32"}, {"tensor": [-1], "dtype": "float32"}, {"tuple": 3}, 3, {}):
        with pytest.raises(ValueError, match="input"):
            examples.rebuild(bad)
