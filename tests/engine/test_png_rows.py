"""A PNG whose data end before its last row is no image, though Pillow reads it as one with zeros."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pngs import chunk

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.formats.png_rows import PASSES


def rows_of(pixels: Any, *, interlaced: bool) -> bytes:
    """Grey pixels (H, W) of 8 or 16 bits as they stand in a PNG, with filter 0, by the specification."""
    kind = ">u2" if pixels.dtype == np.uint16 else np.uint8
    passes = [pixels[t::down, left::right] for t, left, down, right in PASSES] if interlaced else [pixels]
    return b"".join(b"\0" + row.astype(kind).tobytes() for part in passes for row in part if row.size)


def png(pixels: Any, data: bytes, *, interlaced: bool) -> bytes:
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 0, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    interlaced=st.booleans(),
    without=st.booleans(),
)
def test_black_images_are_whole_or_not(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], dtype: type, interlaced: bool, without: bool
) -> None:
    """All zero, so that what is missing cannot be seen in the values; with and without imagecodecs."""
    path, pixels = tmp_path_factory.getbasetemp() / "rows.png", np.zeros(size, dtype=dtype)
    data = rows_of(pixels, interlaced=interlaced)
    with mock.patch.dict(sys.modules, {"imagecodecs": None} if without else {}):
        path.write_bytes(png(pixels, data, interlaced=interlaced))
        assert (read_image(str(path)).numpy()[0] == pixels).all()
        path.write_bytes(png(pixels, data[:-1], interlaced=interlaced))
        with pytest.raises(BadImageError) as caught:
            read_image(str(path))
    assert caught.value.cause == "truncated"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_half_an_image_of_any_mode(tmp_path: Path, mode: str) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(1, 255, (10, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    data = buffer.getvalue()
    place = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, place - 4)
    rows = zlib.decompress(data[place + 4 : place + 4 + length])
    half = chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2]))
    (tmp_path / "half.png").write_bytes(data[: place - 4] + half + data[place + 8 + length :])
    with pytest.raises(BadImageError) as caught:
        read_image(str(tmp_path / "half.png"))
    assert caught.value.cause == "truncated"


def test_a_transparent_grey_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    pixels = np.array([[1234, 5], [7, 1234]], dtype=np.uint16)
    data = png(pixels, rows_of(pixels, interlaced=False), interlaced=False)
    (tmp_path / "clear.png").write_bytes(data[:33] + chunk(b"tRNS", struct.pack(">H", 1234)) + data[33:])
    assert read_image(str(tmp_path / "clear.png")).tolist() == [[[65535, 5], [7, 65535]]]
