"""Tensors in a safetensors file: written by the durable writer, mapped when read.

The format: eight bytes with the length of a JSON header, the header (type, shape and place of each tensor), the bytes.
The library reads them; its writer is not used, because it reports a full disk by an error of its own kind and leaves a
temporary file of its own behind. Here the bytes go through the one durable writer, a tensor at a time, without a copy.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


def write_weights(path: Path | str, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, on any device, to `path`; whole or not at all.

    Args:
        path: the file.
        weights: by name.
        metadata: strings for the header, beside `format: pt`, which other readers ask for.

    Raises:
        StorageError: the disk refused.
        ValueError: a tensor of a type that the format does not have.
    """
    for name, value in weights.items():
        if value.dtype not in TYPES:
            raise ValueError(f"{name}: safetensors has no type for {value.dtype}")
    # The largest types first: each tensor then begins at a multiple of its own size.
    order = sorted(weights, key=lambda name: (-weights[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        begin, end = end, end + weights[name].numel() * weights[name].element_size()
        header[name] = {
            "dtype": TYPES[weights[name].dtype],
            "shape": list(weights[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    with durable.create_file(path, need=8 + len(text) + end) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in order:
            flat = weights[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from it, not copied; writing to them leaves the file alone.

    Raises:
        IntegrityError: it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise IntegrityError(t("checkpoint.unreadable", file=path, reason=error)) from error
