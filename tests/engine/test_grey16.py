"""Slices of 16-bit grey are read alike with and without imagecodecs, whole or damaged."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pngs import chunk

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun_ct_import.png import encode_png


def slice_of(seed: int, height: int, width: int) -> Any:
    return np.random.default_rng(seed).normal(30000, 300, (height, width)).astype(np.uint16)


def filtered(pixels: Any, filters: list[int]) -> bytes:
    """A PNG whose rows have these filters: 0, none; 1, less the pixel before; 2, less the row above."""
    height, width = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, width, 2)
    before, above = np.zeros_like(rows), np.zeros_like(rows)
    before[:, 1:], above[1:] = rows[:, :-1], rows[:-1]
    taken = [(0 * row, left, up)[of] for of, row, left, up in zip(filters, rows, before, above, strict=True)]
    raw = b"".join(bytes([of]) + (row - less).tobytes() for of, row, less in zip(filters, rows, taken, strict=True))
    packed, cut = zlib.compress(raw), 7
    body = chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", packed[cut:])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def boundaries(data: bytes) -> list[int]:
    """Where a chunk begins, from the second on: also between two pieces of the pixels."""
    places, place = [], 33
    while place < len(data):
        places.append(place)
        place += 12 + struct.unpack_from(">I", data, place)[0]
    return places


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A PNG by one of three encoders, with or without some harm."""
    pixels = slice_of(draw(st.integers(0, 99)), draw(st.integers(1, 70)), draw(st.integers(1, 16)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    of = draw(st.sampled_from((0, 1, 2, None)))
    filters = [draw(st.integers(0, 2)) if of is None else of for _ in pixels]
    encoded = [buffer.getvalue(), encode_png(pixels, 6), filtered(pixels, filters)]
    data = bytearray(draw(st.sampled_from(encoded)))
    harm = draw(st.sampled_from(("none", "bytes", "end", "chunk", "pixels", "behind")))
    if harm == "bytes":
        for _ in range(draw(st.integers(1, 3))):
            data[draw(st.integers(8, len(data) - 1))] ^= draw(st.integers(1, 255))
    elif harm == "end":
        del data[draw(st.integers(26, len(data) - 1)) :]
    elif harm == "chunk":
        kind = draw(st.sampled_from([b"tRNS", b"gAMA", b"pHYs", b"tEXt", b"sBIT", b"bKGD", b"tIME", b"eXIf", b"PLTE"]))
        place = draw(st.sampled_from(boundaries(bytes(data))))
        again = draw(st.booleans())
        data[place:place] = bytes(data[8:33]) if again else chunk(kind, draw(st.binary(max_size=12)))
    elif harm == "pixels":
        place = data.index(b"IDAT")
        (length,) = struct.unpack_from(">I", data, place - 4)
        packed = draw(st.binary(max_size=length)) + bytes(data[place + 4 : place + 4 + draw(st.integers(0, length))])
        data[place - 4 : place + 8 + length] = chunk(b"IDAT", packed)
    elif harm == "behind":
        data += draw(st.binary(min_size=1, max_size=100))
    return bytes(data)


def outcome(path: Path) -> tuple[object, ...]:
    try:
        pixels = read_image(str(path)).numpy()
    except BadImageError as error:
        return error.cause, error.message
    return pixels.dtype, pixels.shape, pixels.tobytes()


@settings(max_examples=300, deadline=None)
@given(data=files())
def test_with_and_without_the_extra(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "grey16"
    path.write_bytes(data)
    fast = outcome(path)
    with mock.patch.dict(sys.modules, {"imagecodecs": None}):
        assert outcome(path) == fast


@pytest.mark.parametrize("height", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("encoder", ["import", "up", "sub", "Pillow"])
def test_pillow_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, height: int) -> None:
    """What makes it fast: a whole file of nothing but pixels never gets there, and where all rows have one filter, as
    `bigrun data import` and OpenCV store them, libpng is not asked."""
    pixels, buffer = slice_of(0, height, 24), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = {
        "import": encode_png(pixels, 6),
        "up": filtered(pixels, [0, *(height - 1) * [2]]),
        "sub": filtered(pixels, height * [1]),
        "Pillow": buffer.getvalue(),
    }
    (tmp_path / "slice").write_bytes(data[encoder])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(Image, "open", refuse)
    if encoder != "Pillow":
        monkeypatch.setattr(imagecodecs, "png_decode", refuse)
    assert (read_image(str(tmp_path / "slice")).numpy() == pixels).all()


def test_orientation_is_left_to_pillow(tmp_path: Path) -> None:
    pixels = slice_of(0, 3, 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "slice.png", exif=exif)
    assert (read_image(str(tmp_path / "slice.png")).numpy()[0] == np.rot90(pixels, -1)).all()


def test_a_size_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slice").write_bytes(encode_png(slice_of(0, 8, 8), 6))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(BadImageError) as caught:
        read_image(str(tmp_path / "slice"))
    assert caught.value.cause == "too-large"
