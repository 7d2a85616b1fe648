"""Groups of tensors as safetensors files, written one tensor at a time. Imports torch only when it is called.

The library's own writer wants the whole group in host memory, and hashing what it meant to write needs another
copy; this one needs the memory of the largest tensor, and its caller hashes the bytes as they pass. The library
reads. The format: the header's length (8 bytes, little-endian), the header (JSON, padded with spaces), the data.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from bigrun.checkpoint.saved_tensors import SavedTensors

__all__ = ["encode_tensors", "load_tensors"]

# The format's names of torch's dtypes.
DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
METADATA = "__metadata__"  # a header key of the format that is not a tensor


def encode_tensors(tensors: Mapping[str, Tensor], where: str) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file in order: the header, then each tensor's data.

    Tensors may be on any device, of any stride, and share storage: each is written on its own. Wide dtypes
    come first, so that every tensor is aligned to its element size when the file is mapped into memory.

    Raises:
        CheckpointError: naming `where`, for a dtype that the format does not have and for a reserved name.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        dtype = DTYPES.get(str(tensor.dtype))
        if dtype is None or name == METADATA:
            raise CheckpointError(
                f"{where}: tensor '{name}' of {tensor.dtype} cannot be saved: unknown dtype or reserved name"
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield view_bytes(tensors[name])


def view_bytes(tensor: Tensor) -> memoryview:
    """The elements in row-major order as bytes; copied only where the tensor is on a device or strided."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def load_tensors(checkpoint: Path, stem: str) -> SavedTensors:
    """The group of tensors that was saved as `stem` in the directory `checkpoint`, on the CPU: see `SavedTensors`.

    Raises:
        CheckpointError: there is no such group, or a file is damaged.
    """
    from bigrun.checkpoint.saved_tensors import SavedTensors

    return SavedTensors(checkpoint, stem)
