"""Slices of 16-bit grey are read alike with and without imagecodecs, whole or damaged."""

from __future__ import annotations

import io
import struct
import sys
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
from bigrun_ct_import.png import encode_png


def slice_of(seed: int, height: int, width: int) -> Any:
    return np.random.default_rng(seed).normal(30000, 300, (height, width)).astype(np.uint16)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A PNG by one of two encoders, with or without some harm."""
    pixels = slice_of(draw(st.integers(0, 99)), draw(st.integers(1, 16)), draw(st.integers(1, 16)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = bytearray(draw(st.sampled_from([buffer.getvalue(), encode_png(pixels, 6)])))
    harm = draw(st.sampled_from(("none", "bytes", "end", "chunk", "pixels", "behind")))
    if harm == "bytes":
        for _ in range(draw(st.integers(1, 3))):
            data[draw(st.integers(8, len(data) - 1))] ^= draw(st.integers(1, 255))
    elif harm == "end":
        del data[draw(st.integers(26, len(data) - 1)) :]
    elif harm == "chunk":
        kind = draw(st.sampled_from([b"tRNS", b"gAMA", b"pHYs", b"tEXt", b"sBIT", b"bKGD", b"tIME", b"eXIf", b"PLTE"]))
        data[33:33] = chunk(kind, draw(st.binary(max_size=12)))
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


def test_pillow_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it fast: a whole file of nothing but pixels never gets there."""
    pixels = slice_of(0, 32, 24)
    (tmp_path / "slice").write_bytes(encode_png(pixels, 6))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(Image, "open", refuse)
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
