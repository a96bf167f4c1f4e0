"""Writing ``.safetensors`` straight into one open file, digest included.

The library's own writer goes through a temporary file with a random name beside the target, which a killed process
would leave in the user's folder. Reading is the library's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write dense, contiguous CPU tensors to the new file ``path`` and to the disk beneath it.

    Returns the size in bytes and the sha256 of the file. Raises ``OSError`` where the disk will not take it.
    """
    # Widest first, so that every tensor is aligned to its own width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for block in (_header(dict(ordered)), *(raw(tensor) for _, tensor in ordered)):
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        fields[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a dense, contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
