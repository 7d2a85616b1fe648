"""One process's part of packing: read, hash and decode."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.files.facts import Facts, read_file
from bigrun.data.files.paths import locate
from bigrun.data.formats.contents import HEAD_BYTES, kind_of
from bigrun.data.pack.shards import bytes_of

__all__ = ["Decoded", "Portion", "decode_portion"]


@attrs.frozen
class Portion:
    """Files to be decoded by one process."""

    root: Path
    paths: Sequence[str]
    confined: bool
    channels: int | None


@attrs.frozen(eq=False)
class Decoded:
    """One file: what is known of it, and its pixels (C, H, W) unless it is bad."""

    facts: Facts
    pixels: npt.NDArray[np.generic] | None = None
    pixels_sha256: bytes | None = None


def decode_portion(portion: Portion) -> list[Decoded]:
    """The files of a portion in their order."""
    return [decode_file(portion, path) for path in portion.paths]


def decode_file(portion: Portion, path: str) -> Decoded:
    size: int | None = None
    mtime_ns: int | None = None
    sha256: bytes | None = None
    try:
        place = locate(portion.root, path, confined=portion.confined)
        data, size, mtime_ns = read_file(place)
        sha256 = hashlib.sha256(data or b"").digest()
        pixels = np.ascontiguousarray(read_image(place, portion.channels).numpy())
    except BadImageError as error:
        facts = Facts(size, mtime_ns, sha256=sha256, decoded=1, cause=error.cause, message=error.message)
        return Decoded(facts)
    channels, height, width = pixels.shape
    kind = kind_of((data or b"")[:HEAD_BYTES]) or ""
    facts = Facts(size, mtime_ns, width, height, channels, pixels.dtype.name, kind, sha256, 1)
    return Decoded(facts, pixels, hashlib.sha256(bytes_of(pixels)).digest())
