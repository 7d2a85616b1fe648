"""What was written without loss is read back exactly, whatever format; what cannot be is refused."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pngs import chunk

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError

Pixels = npt.NDArray[Any]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, written again and again."""
    return tmp_path_factory.mktemp("formats") / "image"


def stored(place: Path, data: bytes, channels: int | None = None) -> Pixels:
    place.write_bytes(data)
    pixels: Pixels = read_image(str(place), channels).numpy()
    return pixels


def fault(place: Path, data: bytes, channels: int | None = None) -> BadImageError:
    with pytest.raises(BadImageError) as caught:
        stored(place, data, channels)
    assert caught.value.path == str(place)
    return caught.value


def pillow(pixels: Pixels, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(pixels: Pixels, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def npy(pixels: Pixels, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=pickled)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """By the specification and by nobody's library: filter 0 in every row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(pixels: Pixels, extra: bytes = b"") -> bytes:
    """(H, W, C) uint16."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, extra)


def images(channels: tuple[int, ...], *dtypes: type) -> st.SearchStrategy[Pixels]:
    """(H, W, C) with every value of the type."""
    return st.builds(
        lambda h, w, c, dtype, seed: values(np.random.default_rng(seed), (h, w, c), dtype),
        st.integers(1, 20),
        st.integers(1, 20),
        st.sampled_from(channels),
        st.sampled_from(dtypes),
        st.integers(0, 1000),
    )


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> Pixels:
    if dtype is np.float32:
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def first(pixels: Pixels) -> Pixels:
    """(H, W, C) -> (C, H, W)."""
    return pixels.transpose(2, 0, 1)


def squeezed(pixels: Pixels) -> Pixels:
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def same(decoded: Pixels, expected: Pixels) -> bool:
    return decoded.dtype == expected.dtype and decoded.shape == expected.shape and bool((decoded == expected).all())


MORE = settings(max_examples=25, deadline=None)


@MORE
@given(pixels=images((1, 3), np.uint8), form=st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"]))
def test_eight_bits(place: Path, pixels: Pixels, form: str) -> None:
    exact = {"lossless": True} if form == "WEBP" else {}
    expected = first(pixels)
    if form == "WEBP" and len(expected) == 1:  # the format knows no grey
        expected = np.repeat(expected, 3, axis=0)
    assert same(stored(place, pillow(squeezed(pixels), form, **exact)), expected)


@MORE
@given(pixels=images((1, 3), np.uint16), encode=st.sampled_from([png16, imagecodecs.png_encode]))
def test_sixteen_bits_png(place: Path, pixels: Pixels, encode: Callable[[Pixels], bytes]) -> None:
    assert same(stored(place, encode(pixels)), first(pixels))


@MORE
@given(
    pixels=images((1, 2, 3, 4, 5, 9), np.uint8, np.uint16, np.float32),
    compression=st.sampled_from([None, "lzw", "zlib", "packbits", "zstd"]),
    big_endian=st.booleans(),
    planar=st.booleans(),
    tiled=st.booleans(),
)
def test_tiff_of_any_channels(
    place: Path, pixels: Pixels, compression: str | None, big_endian: bool, planar: bool, tiled: bool
) -> None:
    several = pixels.shape[-1] > 1
    data = tiff(
        first(pixels) if planar and several else squeezed(pixels),
        photometric="minisblack",
        planarconfig=("separate" if planar else "contig") if several else None,
        compression=compression,
        byteorder=">" if big_endian else "<",
        tile=(16, 16) if tiled else None,
    )
    assert same(stored(place, data), first(pixels))


@MORE
@given(pixels=images((3,), np.uint8, np.uint16, np.float32), compression=st.sampled_from([None, "lzw", "zlib"]))
def test_tiff_of_colours(place: Path, pixels: Pixels, compression: str | None) -> None:
    data = tiff(pixels, photometric="rgb", compression=compression, predictor=compression is not None)
    assert same(stored(place, data), first(pixels))


@MORE
@given(pixels=images((2, 3, 7), np.uint8, np.uint16, np.float32))
def test_pages_are_channels(place: Path, pixels: Pixels) -> None:
    pages = first(pixels)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in pages:
            writer.write(page, contiguous=False, photometric="minisblack")
    assert same(stored(place, buffer.getvalue()), pages)


@MORE
@given(
    pixels=images((1, 3, 5), np.uint8, np.uint16, np.float32),
    big_endian=st.booleans(),
    fortran=st.booleans(),
    last=st.booleans(),
)
def test_arrays(place: Path, pixels: Pixels, big_endian: bool, fortran: bool, last: bool) -> None:
    channels = pixels.shape[-1]
    if not last and pixels.shape[1] == channels != pixels.shape[0]:  # reads the same as the other way round
        return
    array = pixels if last and channels not in pixels.shape[:1] else first(pixels)
    if big_endian:
        array = array.astype(array.dtype.newbyteorder(">"))
    data = npy(np.asfortranarray(array) if fortran else array)
    assert same(stored(place, data, channels), first(pixels))


def test_arrays_without_a_model_take_the_shorter_axis_for_channels(place: Path) -> None:
    grey = values(RNG, (5, 7), np.uint16)
    assert same(stored(place, npy(grey)), grey[None])
    pixels = values(RNG, (5, 7, 3), np.uint8)
    assert same(stored(place, npy(pixels)), first(pixels))
    assert same(stored(place, npy(first(pixels))), first(pixels))
    assert fault(place, npy(pixels), channels=4).cause == "unsupported"


def test_transparency_in_sixteen_bits_is_put_on_white(place: Path) -> None:
    pixels = np.array([[[1000, 2000, 3000, 65535], [1000, 2000, 3000, 0], [0, 65535, 30000, 32768]]], dtype=np.uint16)
    share = pixels[..., 3:].astype(float) / 65535
    expected = first(np.rint(pixels[..., :3] * share + 65535 * (1 - share)).astype(np.uint16))
    for data in (png16(pixels), tiff(pixels, photometric="rgb", extrasamples=["unassalpha"])):
        assert same(stored(place, data), expected)
    grey = pixels[..., [0, 3]]
    assert same(stored(place, png16(grey)), expected[:1])
    premultiplied = pixels.copy()
    premultiplied[..., :3] = np.rint(pixels[..., :3] * share)
    assert same(stored(place, tiff(premultiplied, photometric="rgb", extrasamples=["assocalpha"])), expected)


def test_a_fourth_channel_that_is_no_opacity_stays(place: Path) -> None:
    """Pillow opens such a file as RGB, and forgets the fourth."""
    pixels = values(RNG, (5, 7, 4), np.uint8)
    assert same(stored(place, tiff(pixels, photometric="rgb", extrasamples=["unspecified"])), first(pixels))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(place: Path, dtype: type) -> None:
    pixels = values(RNG, (5, 7), dtype)
    assert same(stored(place, tiff(pixels, photometric="miniswhite")), (np.iinfo(dtype).max - pixels)[None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_in_sixteen_bits_too(place: Path, orientation: int) -> None:
    grey = Image.fromarray(values(RNG, (4, 6), np.uint8))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey.save(buffer, "PNG", exif=exif)
    turned = stored(place, buffer.getvalue())[0].astype(np.uint16) * 257
    deep = np.asarray(grey).astype(np.uint16) * 257
    options = {"extratags": [(0x0112, 3, 1, orientation, True)], "photometric": "rgb"}
    assert same(stored(place, tiff(np.stack([deep] * 3, axis=-1), **options)), np.stack([turned] * 3))
    tag = b"Exif\0\0"[6:] + exif.tobytes().removeprefix(b"Exif\0\0")
    assert same(stored(place, png16(np.stack([deep] * 3, axis=-1), chunk(b"eXIf", tag))), np.stack([turned] * 3))
    thin = stored(place, pillow(np.array([[7]], dtype=np.uint8), "PNG", exif=exif))
    assert thin.tolist() == [[[7]]]


def test_a_smaller_copy_and_a_mask_are_no_channels(place: Path) -> None:
    pixels = values(RNG, (8, 8, 3), np.uint16)
    for page in (pixels, pixels.astype(np.uint8)):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(page, photometric="rgb")
            writer.write(page[::2, ::2], photometric="rgb", subfiletype=1)
            writer.write(page[..., 0] > 9, photometric="mask", subfiletype=4)
        assert same(stored(place, buffer.getvalue()), first(page))


REFUSED: dict[str, tuple[bytes, str]] = {
    "pages that differ": (b"", "2 pages that differ"),
    "signed": (tiff(np.zeros((4, 4), np.int16)), "16-bit signed"),
    "32 bits": (tiff(np.zeros((4, 4), np.uint32)), "32-bit unsigned"),
    "signed colour": (tiff(np.zeros((4, 4, 3), np.int16), photometric="rgb"), "int16"),
    "float64": (tiff(np.zeros((4, 4))), "float64"),
    "float beyond 1": (tiff(np.full((4, 4), 1.5, np.float32)), r"values from 1.5 to 1.5, expected \[0, 1\]"),
    "float colour beyond 1": (tiff(np.full((4, 4, 3), 1.5, np.float32), photometric="rgb"), r"expected \[0, 1\]"),
    "CMYK of 16 bits": (tiff(np.zeros((4, 4, 4), np.uint16), photometric="separated"), "expected grey or RGB"),
    "float64 array": (npy(np.zeros((4, 4))), "another type"),
    "array of features": (npy(np.zeros(4, np.float32)), "another type or number of dimensions"),
    "objects": (npy(np.array([[b"x"]], dtype=object), pickled=True), "another type"),
    "float array beyond 1": (npy(np.full((4, 4), -0.5, np.float32)), "values from -0.5"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC or AVIF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_read_with_loss(place: Path, name: str) -> None:
    data, words = REFUSED[name]
    if not data:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for side in (4, 6):
                writer.write(np.zeros((side, side), np.uint8), photometric="minisblack")
        data = buffer.getvalue()
    found = fault(place, data)
    assert found.cause == "unsupported"
    with pytest.raises(BadImageError, match=words):
        raise found


def test_an_array_of_objects_is_never_unpickled(place: Path) -> None:
    """Also with a header that says otherwise, so that it passes for numbers."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {place}.exploded",)

    data = npy(np.array([[Bomb()]], dtype=object), pickled=True)
    assert fault(place, data).cause == "unsupported"
    forged = data.replace(b"'|O', ", b"'|u1',", 1)
    assert same(stored(place, forged), np.array([[[0x80]]], dtype=np.uint8))  # the first byte of the pickle
    assert not Path(f"{place}.exploded").exists()


@pytest.mark.parametrize(
    ("module", "data"),
    [
        ("imagecodecs", png16(values(RNG, (5, 7, 3), np.uint16))),
        ("tifffile", tiff(values(RNG, (5, 7, 3), np.uint16), photometric="rgb")),
    ],
)
def test_without_the_extra_the_message_names_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, module: str, data: bytes
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as Python does for a module that is not installed
    found = fault(place, data)
    assert found.cause == "unsupported"
    assert 'pip install "bigrun[formats]"' in found.message
    grey = values(RNG, (5, 7, 1), np.uint16)
    assert same(stored(place, png16(grey)), first(grey))


def test_a_compression_that_needs_the_extra_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tifffile alone, which others bring, cannot undo it."""
    data = tiff(values(RNG, (5, 7, 3), np.uint16), photometric="rgb", compression="lzw")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tifffile"]:
        monkeypatch.delitem(sys.modules, name)  # it looks for the other when it is imported
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    found = fault(place, data)
    assert found.cause == "unsupported"
    assert 'pip install "bigrun[formats]"' in found.message
